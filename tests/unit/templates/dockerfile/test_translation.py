from __future__ import annotations

import platform
from pathlib import Path

import pytest

from atoll.templates.dockerfile.syntax import DockerfileError
from atoll.templates.recipe import (
    Arg,
    Copy,
    Env,
    FromImage,
    FromScratch,
    FromStage,
    FromTemplate,
    Run,
    Stage,
    StageFiles,
    Step,
    UploadedFiles,
    User,
    Workdir,
    dump_recipe,
    load_recipe,
)
from tests.unit.templates.dockerfile.conftest import Translate

ROOT = User("root")
LAST = (User("user"), Workdir("/home/user"))


def steps(stage: Stage) -> tuple[Step, ...]:
    """Without what every stage begins and ends with."""
    return tuple(each for each in stage.steps if each not in (ROOT, *LAST))


def shell(command: str) -> Run:
    return Run(("/bin/sh", "-c", command))


def test_the_smallest(translate_text: Translate) -> None:
    (stage,) = translate_text("FROM debian:12").recipe.stages
    assert stage.source == FromImage("debian:12")
    assert stage.steps == (ROOT, *LAST)
    assert set(stage.labels) == {"Dockerfile:1"}


def test_templates_are_told_from_images(translate_text: Translate) -> None:
    (stage,) = translate_text("FROM mine-v1.0.0", templates=("mine-v1.0.0",)).recipe.stages
    assert stage.source == FromTemplate("mine-v1.0.0")
    assert stage.steps == (ROOT, Workdir("/"), *LAST)


def test_scratch_has_nothing_to_begin_with(translate_text: Translate) -> None:
    (stage,) = translate_text("FROM scratch\nUSER 7\nWORKDIR /").recipe.stages
    assert stage == Stage(
        FromScratch(), (User("7"), Workdir("/")), ("Dockerfile:2", "Dockerfile:3")
    )


def test_run(translate_text: Translate) -> None:
    text = """
        FROM x
        RUN echo $HOME && \\
            # a remark
            echo "two words"
        RUN ["/bin/echo", "$HOME"]
        SHELL ["/bin/bash", "-o", "pipefail", "-c"]
        RUN a | b
        RUN --mount=type=cache,target=/root/.cache --network=default c
    """
    (stage,) = translate_text(text).recipe.stages
    bash = ("/bin/bash", "-o", "pipefail", "-c")
    first, second, third, fourth = steps(stage)
    assert isinstance(first, Run)
    assert " ".join(first.command[2].split()) == 'echo $HOME && echo "two words"'
    assert second == Run(("/bin/echo", "$HOME"))
    assert (third, fourth) == (Run((*bash, "a | b")), Run((*bash, "c")))
    assert stage.labels[1] == "Dockerfile:3"


def test_heredocs_of_run(translate_text: Translate) -> None:
    text = "FROM x\nRUN <<EOF\necho $A\necho 'b'\nEOF\nRUN cat <<'E' >/f && echo ok\n$A\nE\n"
    text += "RUN <<-EOF\n\tindented\nEOF\nRUN <<EOF\n#!/usr/bin/env python3\nprint(1)\nEOF\n"
    (stage,) = translate_text(text).recipe.stages
    first, second, third, fourth = steps(stage)
    assert first == shell("echo $A\necho 'b'\n")
    assert second == shell("cat <<'E' >/f && echo ok\n$A\nE")
    assert third == shell("indented\n")
    assert isinstance(fourth, Run)
    assert fourth.command[-1] == "#!/usr/bin/env python3\nprint(1)\n"


def test_variables_are_left_to_the_builder(translate_text: Translate) -> None:
    text = r"""
        FROM x
        ENV A=1 B="$A b" C='$A' D=\$A E=${PATH:+$PATH:}/e F=a\ b
        ENV old style  value
        ENV G="it's \"so\"" H=${A:-}} I=${A#*/}
        WORKDIR $A/sub
        USER ${B}
    """
    (stage,) = translate_text(text).recipe.stages
    env, old, quoted, workdir, user = stage.steps[1:]
    assert env == Env(
        (
            ("A", "1"),
            ("B", "${A} b"),
            ("C", r"\$A"),
            ("D", r"\$A"),
            ("E", "${PATH:+${PATH}:}/e"),
            ("F", "a b"),
        )
    )
    assert old == Env((("old", "style  value"),))
    assert quoted == Env((("G", 'it\'s "so"'), ("H", "${A:-}}"), ("I", "${A#*/}")))
    assert workdir == Workdir("${A}/sub")
    assert user == User("${B}")


def test_the_builder_reads_what_is_left_to_it(translate_text: Translate) -> None:
    from atoll.templates.layers import Ground
    from atoll.templates.plan import Planner

    values = {
        r"\$A": "$A",
        "'$A'": "$A",
        '"$A"': "one",
        r"a\\b": r"a\b",
        r'"a\b\\"': r"a\b" + "\\",
        "'it''s'": "its",
        '''"it's"''': "it's",
        """${A:+"it's"}""": "it's",
        r"""${X:-'\}"'}""": '\\}"',
        r"${X:-\}\$}": "}$",
        "${X:-${A}}": "one",
        "${A%e}": "on",
        "$": "$",
        "a$": "a$",
    }
    pairs = " ".join(f"V{number}={value}" for number, value in enumerate(values))
    (stage,) = translate_text(f"FROM x\nENV {pairs}").recipe.stages
    plan = Planner({}, latest=str, force=False).plan(stage, Ground("k", (), {"A": "one"}), ())
    got = [plan.result.envs[f"V{number}"] for number in range(len(values))]
    assert got == list(values.values())


def test_arguments(translate_text: Translate) -> None:
    text = """
        ARG VERSION=1 BASE=debian
        FROM $BASE:${VERSION}
        ARG VERSION
        ARG NONE
        ARG OWN=of-$VERSION
        ARG PATH_=$PATH:x
        ARG TARGETARCH
        ENV A=$OWN
    """
    found = translate_text(text, VERSION="2", OTHER="x")
    (stage,) = found.recipe.stages
    assert stage.source == FromImage("debian:2")
    *args, env = steps(stage)
    assert args[:3] == [
        Arg("VERSION", "2"),
        Arg("OWN", "of-${VERSION}"),
        Arg("PATH_", "${PATH}:x"),
    ]
    assert isinstance(args[3], Arg)
    assert args[3].value in ("amd64", "arm64", platform.machine())
    assert env == Env((("A", "${OWN}"),))
    assert found.unused_args == {"OTHER"}


def test_build_arguments_stand_for_themselves(translate_text: Translate) -> None:
    (stage,) = translate_text("FROM x\nARG A=1", A="$HOME\\").recipe.stages
    assert steps(stage) == (Arg("A", r"\$HOME\\"),)


def test_stages(translate_text: Translate) -> None:
    text = """
        FROM golang AS Build
        ARG A=1
        RUN build
        FROM unused AS unused
        COPY --from=build /nothing /
        FROM build AS again
        RUN more
        FROM scratch
        COPY --from=again --chown=1:2 --chmod=755 /out/$X /out2 /bin/
        COPY --from=0 /a /b
        COPY --from=ghcr.io/some/tool:1 /tool /
        ENTRYPOINT ["/bin/out"]
        CMD ["--serve"]
    """
    recipe = translate_text(text).recipe
    build, again, tool, last = recipe.stages
    assert build.source == FromImage("golang")
    assert steps(build) == (Arg("A", "1"), shell("build"))
    assert again.source == FromStage(0)
    assert again.steps == (Arg("A", "1"), shell("more"))
    assert tool == Stage(FromImage("ghcr.io/some/tool:1"))
    assert last.source == FromScratch()
    assert last.steps[:3] == (
        Copy(StageFiles(1), ("/out/${X}", "/out2"), "/bin/", owner="1:2", mode=0o755),
        Copy(StageFiles(0), ("/a",), "/b"),
        Copy(StageFiles(2), ("/tool",), "/"),
    )
    assert recipe.start_command == "/bin/out --serve"
    assert load_recipe(dump_recipe(recipe)) == recipe


def test_a_target(translate_text: Translate) -> None:
    text = "FROM a AS one\nRUN a\nFROM b AS two\nRUN b"
    for target in ("one", "ONE", "0"):
        (stage,) = translate_text(text, target=target).recipe.stages
        assert stage.source == FromImage("a")
    with pytest.raises(DockerfileError, match="no stage 'three'"):
        translate_text(text, target="three")


@pytest.mark.parametrize(
    ("lines", "command"),
    [
        ("CMD run me", "run me"),
        ('CMD ["run", "my file"]', "run 'my file'"),
        ("CMD one\nCMD two", "two"),
        ('ENTRYPOINT ["e"]\nCMD ["a", "b"]', "e a b"),
        ('CMD ["a"]\nENTRYPOINT ["e"]', "e a"),
        ("ENTRYPOINT e\nCMD a", "e"),
        ('ENTRYPOINT ["e"]\nCMD a $B', "e /bin/sh -c 'a $B'"),
        ('SHELL ["/bin/ash", "-c"]\nCMD a b', "/bin/ash -c 'a b'"),
        ("RUN x", None),
        ("CMD a\nCMD []", None),
    ],
)
def test_the_start_command(translate_text: Translate, lines: str, command: str | None) -> None:
    assert translate_text(f"FROM x\n{lines}").recipe.start_command == command


def test_an_entrypoint_forgets_the_arguments_of_the_stage_below(translate_text: Translate) -> None:
    text = 'FROM x AS y\nCMD ["below"]\nFROM y\n'
    assert translate_text(text).recipe.start_command == "below"
    assert translate_text(text + 'ENTRYPOINT ["e"]').recipe.start_command == "e"


def test_a_health_check_says_when_it_is_ready(translate_text: Translate) -> None:
    text = "FROM x\nHEALTHCHECK --interval=3s CMD curl -f localhost\n"
    assert translate_text(text).recipe.ready_command is None
    assert translate_text(text + "CMD serve").recipe.ready_command == "curl -f localhost"
    assert translate_text(text + "CMD serve\nHEALTHCHECK NONE").recipe.ready_command is None


def test_what_has_no_effect(translate_text: Translate) -> None:
    text = 'FROM x\nEXPOSE 80/tcp\nLABEL a="b c"\nMAINTAINER me\nVOLUME ["/v"]\nSTOPSIGNAL INT'
    (stage,) = translate_text(text).recipe.stages
    assert steps(stage) == ()


def test_copies_are_sent(translate_text: Translate, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    text = "FROM x\nENV D=/srv N=a\nCOPY --chown=$N:users ${N}.txt $D/\nADD *.txt /t/\n"
    found = translate_text(text)
    copy, add = steps(found.recipe.stages[0])[1:]
    assert isinstance(copy, Copy)
    assert isinstance(copy.files, UploadedFiles)
    assert (copy.sources, copy.destination) == (("a.txt",), "${D}/")
    assert (copy.owner, copy.unpack) == ("${N}:users", False)
    assert isinstance(add, Copy)
    assert isinstance(add.files, UploadedFiles)
    assert (add.sources, add.unpack) == (("*.txt",), True)
    assert set(found.archives) == {copy.files.hash, add.files.hash}


def test_heredocs_of_copy(translate_text: Translate) -> None:
    text = "FROM x\nENV A=1\nCOPY <<one.txt <<'two.txt' /d/\n$A it's\none.txt\n$A\ntwo.txt\n"
    found = translate_text(text)
    _, one, two = steps(found.recipe.stages[0])
    assert isinstance(one, Copy)
    assert isinstance(two, Copy)
    assert (one.sources, two.sources) == ((".dockerfile/0/one.txt",), (".dockerfile/1/two.txt",))
    assert one.destination == two.destination == "/d/"
    assert isinstance(one.files, UploadedFiles)
    (member,) = found.archives[one.files.hash].members
    assert member.content == b"1 it's\n"
    assert isinstance(two.files, UploadedFiles)
    (member,) = found.archives[two.files.hash].members
    assert member.content == b"$A\n"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", None, "no FROM"),
        ("RUN x", 1, "RUN comes before the first FROM"),
        ("FROM x\n\nFLY away", 3, "unknown instruction: FLY"),
        ("FROM a b", 1, "FROM image AS name"),
        ("FROM x AS y\nFROM z AS y", 2, "two stages of the name 'y'"),
        ("FROM $X", 1, "is empty"),
        ("FROM --platform=plan9/mips x", 1, "the platform 'plan9/mips' is not this machine's"),
        ("FROM x\nONBUILD RUN y", 2, "ONBUILD is not supported"),
        ("FROM x\nRUN", 2, "RUN needs a command"),
        ("FROM x\nRUN --mount=type=secret,id=a b", 2, "--mount=type=secret is not supported"),
        ("FROM x\nRUN --mount=source=a,target=b c", 2, "--mount=type=bind is not supported"),
        ("FROM x\nRUN --network=host b", 2, "--network=host is not supported"),
        ("FROM x\nRUN --device=gpu b", 2, "RUN --device is not supported"),
        ("FROM x\nCOPY a", 2, "a source and a destination"),
        ("FROM x\nCOPY missing /a", 2, "there is no 'missing'"),
        ("FROM x\nCOPY ../a /a", 2, "leads out of the build context"),
        ("FROM x\nCOPY a b /c", 2, "several sources need a directory"),
        ("FROM x\nCOPY $X /c", 2, "needs the variable X"),
        ("FROM x\nCOPY --from=5 /a /b", 2, "no stage '5' before this one"),
        ("FROM x AS y\nCOPY --from=y /a /b", 2, "no stage 'y' before this one"),
        ("FROM x\nCOPY --chmod=u+x a /b", 2, "there is no 'a'"),
        ("FROM x\nCOPY --parents a /b", 2, "COPY --parents is not supported"),
        ("FROM x\nADD git@github.com:a/b.git /b", 2, "is not supported: only files by http"),
        ("FROM x\nENV A", 2, "ENV must have two arguments"),
        ("FROM x\nENV 1=2", 2, "'1' is no name of a variable"),
        ("FROM x\nENV A='b", 2, "single-quote"),
        ("FROM x\nRUN <<EOF\nx", 2, "unterminated heredoc"),
        ("FROM x\nCOPY <<EOF /a\n$X\nEOF", 2, "the heredoc needs X"),
        ("FROM x\nSHELL bash", 2, "SHELL takes a list"),
        ("FROM x\nHEALTHCHECK curl", 2, "HEALTHCHECK CMD command"),
        ("FROM x\nWORKDIR", 2, "WORKDIR needs a value"),
    ],
)
def test_refusals_name_the_line(
    translate_text: Translate, text: str, line: int | None, reason: str
) -> None:
    with pytest.raises(DockerfileError) as caught:
        translate_text(text)
    assert caught.value.line == line
    assert reason in caught.value.message
    assert caught.value.message.startswith("Dockerfile" if line is None else f"Dockerfile:{line}: ")
