"""Compile what the guest program imports into a runtime directory.

Run by `atoll.agent.runtime` as a script of its own, with the very interpreter that the directory is
for: `python -I -S -X no_debug_ranges collect.py AGENT_DIR LIBRARY_DIR`. Prints the paths of the
extension modules it copied.
"""

from __future__ import annotations

import sys


def collect(agent_dir: str, library: str) -> list[str]:
    """Import the guest, and put every module that this loaded into `library`, compiled without
    docstrings. Returns the extension modules among them."""
    sys.path.append(agent_dir)
    guest = __import__("guest.main")
    # Loaded late: when a terminal is asked for, when a directory is to be watched; and programs of
    # their own, with the compressions that one looks for.
    late = ["fcntl", "termios", "guest.watched", "guest.copying", "guest.fitting"]
    late += ["bz2", "gzip", "lzma", "zlib", "shlex"]
    for name in late:
        __import__(name)
    loaded = {module.__name__: getattr(module, "__file__", None) for module in sys.modules.values()}
    own_name = guest.__name__

    import py_compile
    import shutil
    from pathlib import Path

    target = Path(library)
    dynamic = target / "lib-dynload"
    dynamic.mkdir(parents=True)  # Its presence is how the interpreter knows its prefix.
    extensions = []
    for name, file in loaded.items():
        if name == "__main__" or file is None:
            continue
        source = Path(file)
        if source.suffix == ".so":
            extensions.append(shutil.copyfile(source, dynamic / source.name))
            continue
        parts = name.split(".")
        if source.stem == "__init__":
            parts.append("__init__")
        compiled = target.joinpath(*parts).with_suffix(".pyc")
        compiled.parent.mkdir(parents=True, exist_ok=True)
        shown = "/".join(parts) + ".py"
        py_compile.compile(
            str(source),
            str(compiled),
            dfile=shown,
            doraise=True,
            optimize=2,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    if not (target / "os.pyc").exists():
        # Frozen into the interpreter, which all the same looks for the file to find its library.
        py_compile.compile(
            str(Path(shutil.__file__).with_name("os.py")),
            str(target / "os.pyc"),
            dfile="os.py",
            doraise=True,
            optimize=2,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    if not (target / own_name / "main.pyc").exists():
        raise RuntimeError("the guest program was not compiled")
    return [str(path) for path in extensions]


if __name__ == "__main__":
    print("\n".join(collect(sys.argv[1], sys.argv[2])))
