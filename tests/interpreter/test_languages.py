"""Every language has a kernel that is really there."""

from __future__ import annotations

import pytest
from e2b import SandboxException
from e2b_code_interpreter import Sandbox


def test_javascript(sandbox: Sandbox) -> None:
    sandbox.run_code("const a = 20", language="javascript")
    execution = sandbox.run_code("console.log('hi'); a * 2", language="js")
    assert execution.text == "40"
    assert execution.logs.stdout == ["hi\n"]
    for n in range(50):  # the kernel may publish results after it has said that it is idle
        assert sandbox.run_code(f"a + {n}", language="js").text == str(20 + n)
    assert sandbox.run_code("await Promise.resolve(7)", language="js").text == "7"
    error = sandbox.run_code("throw new TypeError('bad')", language="js").error
    assert error is not None
    assert (error.name, error.value) == ("TypeError", "bad")


def test_typescript(sandbox: Sandbox) -> None:
    code = "interface P { x: number }\nconst p: P = { x: 5 }\np.x + 1"
    assert sandbox.run_code(code, language="typescript").text == "6"


@pytest.mark.parametrize("code", ["foo bar", "let a1 = ;", "}{"])
def test_a_syntax_error_in_javascript(sandbox: Sandbox, code: str) -> None:
    error = sandbox.run_code(code, language="js").error
    assert error is not None
    assert error.value or error.traceback


def test_bash(sandbox: Sandbox) -> None:
    sandbox.run_code("cd /tmp; NAME=world", language="bash")
    execution = sandbox.run_code('echo "hello $NAME from $PWD"', language="bash")
    assert "".join(execution.logs.stdout) == "hello world from /tmp\n"


def test_r(sandbox: Sandbox) -> None:
    sandbox.run_code("x <- c(1, 2, 3)", language="r")
    assert sandbox.run_code("mean(x)", language="r").results[0].text == "[1] 2"
    assert sandbox.run_code("plot(x)", language="r").results[0].png is not None
    error = sandbox.run_code("stop('bad')", language="r").error
    assert error is not None
    assert "bad" in error.value + error.traceback


def test_java(sandbox: Sandbox) -> None:
    sandbox.run_code("int twice(int n) { return 2 * n; }", language="java")
    execution = sandbox.run_code('System.out.println("hi"); twice(21)', language="java")
    assert execution.text == "42"
    assert "".join(execution.logs.stdout).strip() == "hi"


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "import os; print(os.environ.get('OWN', '-'))"),
        ("javascript", "console.log(Deno.env.get('OWN') ?? '-')"),
        ("bash", 'echo "${OWN:--}"'),
        ("r", "cat(Sys.getenv('OWN', '-'))"),
        ("java", 'System.out.println(System.getProperty("OWN", "-"));'),
    ],
)
def test_variables_of_a_call_are_gone_afterwards(
    sandbox: Sandbox, language: str, code: str
) -> None:
    value = 'it\'s "$HOME" \\ \n two'
    given = sandbox.run_code(code, language=language, envs={"OWN": value})
    assert "".join(given.logs.stdout).rstrip("\n") == value
    after = sandbox.run_code(code, language=language)
    assert "".join(after.logs.stdout).strip() == "-"


def test_a_language_that_is_not_there(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxException, match="no kernel for 'cobol'"):
        sandbox.run_code("1", language="cobol")
