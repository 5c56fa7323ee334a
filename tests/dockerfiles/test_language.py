"""What Dockerfiles say, done by a real server and looked at in a sandbox."""

from __future__ import annotations

import os
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from e2b import Sandbox

from tests.dockerfiles.conftest import Project
from tests.images.making import Picture, busybox_layer
from tests.images.registry import Registry


def run(sandbox: Sandbox, command: str, user: str = "user") -> str:
    return sandbox.commands.run(command, user=user).stdout.strip()


def test_variables(project: Project) -> None:
    project.write(
        e2b__Dockerfile="""
            ARG BASE=nowhere
            FROM $BASE
            ARG WHO=nobody
            ARG LATER
            ENV A=1 B="a b" C='$A' D=$WHO E=${LATER:-none} F=${A:+yes}
            ENV A=2 G=$A PATH=/opt/bin:$PATH
            ENV old style $B
            RUN echo "$WHO $A $LATER" >/told
            WORKDIR /srv/$WHO
            WORKDIR deep
            RUN pwd >/where
            SHELL ["/bin/bash", "-c"]
            RUN [[ $WHO == me ]] && echo ${BASH_VERSION:+bash} >/shell
            RUN ["sh", "-c", "echo \\"$0 $WHO\\" >/words", "exec"]
        """
    )
    args = ("--build-arg", "WHO=me", "--build-arg", "BASE=e2bdev/base", "--build-arg", "ODD=1")
    _, log = project.built("--name", "variables", *args)
    assert "no ARG takes the build argument ODD" in log
    with project.sandbox("variables") as sandbox:
        assert run(sandbox, 'echo "$A|$B|$C|$D|$E|$F|$G|$old|$WHO"') == (
            "2|a b|$A|me|none||1|style a b|"
        )
        assert run(sandbox, "cat /told /where /shell /words; pwd").split("\n") == [
            *("me 2 ", "/srv/me/deep", "bash", "exec me", "/srv/me/deep")
        ]
        assert run(sandbox, "echo $PATH").startswith("/opt/bin:/usr/local")


def test_copies(project: Project) -> None:
    for name in ("one.txt", "two.txt", "skip.log", "dir/a", "dir/sub/b", "dir/c.log", "with $x"):
        project.put(name, name)
    (project.root / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (project.root / "run.sh").chmod(0o755)
    (project.root / "link").symlink_to("one.txt")
    with tarfile.open(project.root / "packed.tar.gz", "w:gz") as tar:
        tar.add(project.root / "dir", "inside")
    project.write(
        __dockerignore="*.log\n**/*.log\n",
        e2b__Dockerfile="""
            FROM e2bdev/base
            WORKDIR /w
            COPY one.txt renamed
            COPY --chown=user:user --chmod=0640 *.txt texts/
            COPY dir /w/copied
            COPY --exclude=sub dir partly/
            COPY . everything/
            COPY ["with \\\\$x", "spaced name"]
            ADD packed.tar.gz unpacked
            COPY packed.tar.gz kept.tar.gz
            COPY link followed
            RUN ./everything/run.sh >ran
            COPY <<one <<'two' heredocs/
            $PATH_LIKE
            one
            $PATH_LIKE
            two
        """.replace("            ", "").replace("$PATH_LIKE\none", "plain\none"),
    )
    project.built("--name", "copies")
    with project.sandbox("copies") as sandbox:
        found = run(sandbox, "cd /w; find . -type f -printf '%U %m %p\\n'", user="root")
        lines = set(found.split("\n"))
        umask = 0o644
        for each in (
            *("renamed", "copied/a", "copied/sub/b", "partly/a", "everything/one.txt"),
            *("everything/dir/sub/b", "spaced name", "unpacked/inside/a", "kept.tar.gz", "ran"),
            *("heredocs/one", "heredocs/two"),
        ):
            assert f"0 {umask:o} ./{each}" in lines, each
        assert {"1000 640 ./texts/one.txt", "1000 640 ./texts/two.txt"} <= lines
        assert "0 755 ./everything/run.sh" in lines
        assert "./partly/sub" not in found
        assert ".log" not in found.replace("unpacked/inside/c.log", "")
        assert run(sandbox, "cd /w; cat ran followed 'spaced name' heredocs/*").split("\n") == [
            *("ran", "one.txtwith $xplain", "$PATH_LIKE")
        ]
        assert run(sandbox, "readlink /w/everything/link; test -L /w/followed || echo file") == (
            "one.txt\nfile"
        )
        now = os.stat(project.root / "one.txt").st_mtime
        assert run(sandbox, "stat -c %Y /w/renamed") == str(int(now))


def test_heredocs(project: Project) -> None:
    project.write(
        e2b__Dockerfile="""FROM e2bdev/base
ENV A=1
RUN <<EOF
set -e
echo $A >/sh
false || true
EOF
RUN <<EOF
#!/usr/bin/env python3
print("python", file=open("/python", "w"))
EOF
RUN python3 <<'EOF' >/piped && cat /piped
print("$A")
EOF
"""
    )
    project.built("--name", "heredocs")
    with project.sandbox("heredocs") as sandbox:
        assert run(sandbox, "cat /sh /python /piped") == "1\npython\n$A"
        assert run(sandbox, "ls /tmp") == ""


def test_users(project: Project) -> None:
    project.write(
        e2b__Dockerfile="""
            FROM e2bdev/base
            RUN id -un >/who && useradd -m ann
            USER ann
            RUN id -un >/tmp/who2 && echo $HOME
            USER 1000
            WORKDIR /tmp/made
            RUN id -un >who3
        """
    )
    project.built("--name", "users")
    with project.sandbox("users") as sandbox:
        assert run(sandbox, "cat /who /tmp/who2 who3; pwd") == "root\nann\nuser\n/tmp/made"


def test_stages(project: Project, registry: Registry) -> None:
    tool = registry.push(Picture([busybox_layer()], {"Env": ["TOOL=1"]}), "some/tool:1")
    project.write(
        file__txt="text",
        e2b__Dockerfile=f"""
            FROM e2bdev/base AS build
            WORKDIR /out
            RUN echo built >result && ln -s result link && mkdir -m 700 private && touch private/x
            FROM build AS unused
            RUN exit 1
            FROM build AS test
            RUN test "$(cat result)" = built && echo tested >/out/tested
            FROM e2bdev/base
            COPY --from=build /out /from/build
            COPY --from=test --chown=user /out/te* /from/test/
            COPY --from={tool} /bin/busybox /usr/local/bin/
        """,
    )
    project.built("--name", "stages")
    with project.sandbox("stages") as sandbox:
        assert run(sandbox, "cat /from/build/link /from/test/tested") == "built\ntested"
        assert run(sandbox, "stat -c '%a %U' /from/build/private /from/test/tested") == (
            "700 root\n644 user"
        )
        assert run(sandbox, "busybox echo here; echo $TOOL") == "here"
    told = project.refused("--name", "stages", "--target", "unused")
    assert "e2b.Dockerfile:6: " in told


def test_files_by_address(project: Project) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from afar")

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        Thread(target=http.serve_forever).start()
        address = f"http://127.0.0.1:{http.server_port}/a/file.txt?x=1"
        project.write(e2b__Dockerfile=f"FROM e2bdev/base\nADD --chmod=644 {address} /far/\n")
        project.built("--name", "afar")
        wrong = f"--checksum=sha256:{'0' * 64}"
        project.write(e2b__Dockerfile=f"FROM e2bdev/base\nADD {wrong} {address} /far/\n")
        assert "e2b.Dockerfile:2: " in project.refused("--name", "afar")
        http.shutdown()
    with project.sandbox("afar") as sandbox:
        assert run(sandbox, "cat /far/file.txt") == "from afar"


def test_start_and_ready(project: Project) -> None:
    project.write(
        e2b__Dockerfile="""
            FROM e2bdev/base
            ENV PORT=8123
            WORKDIR /srv
            RUN echo served >index.html
            EXPOSE 8123
            HEALTHCHECK --interval=1s CMD curl -sf localhost:$PORT
            ENTRYPOINT ["python3", "-m", "http.server"]
            CMD ["8123"]
        """
    )
    project.built("--name", "served")
    with project.sandbox("served") as sandbox:
        assert run(sandbox, "curl -s localhost:8123") == "served"
    project.write(e2b__toml='template_name = "served2"\nstart_cmd = "sleep 1000"\n')
    project.built()
    with project.sandbox("served2") as sandbox:
        assert run(sandbox, "pgrep -x -c sleep") == "1"


def test_dockerignore_of_the_dockerfile(project: Project, tmp_path: Path) -> None:
    project.write(a="a", b="b", __dockerignore="a\n")
    project.put("other.Dockerfile.dockerignore", "b\n")
    project.put("other.Dockerfile", "FROM e2bdev/base\nCOPY . /all\n")
    project.built("--name", "ignoring", "--dockerfile", "other.Dockerfile")
    with project.sandbox("ignoring") as sandbox:
        assert run(sandbox, "ls -A /all").split("\n") == [
            *(".dockerignore", "a", "other.Dockerfile", "other.Dockerfile.dockerignore")
        ]
