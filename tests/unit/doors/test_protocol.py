"""The generated code is what its sources say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from atoll.doors.e2b import gen


def test_generated_code_is_current(tmp_path: Path) -> None:
    here = Path(gen.__file__).parent
    proto = here.parent / "proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}"]
    command += [f"--py_out={tmp_path}", f"--connectrpc_out={tmp_path}", *proto.glob("*.proto")]  # type: ignore[list-item]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    made = {each.name: each.read_text() for each in tmp_path.glob("*.py")}
    assert len(made) == 4
    for name, content in made.items():
        assert (here / name).read_text() == content, "run scripts/generate-protocol"
