"""What an execution gives: text, pictures, data, charts, errors."""

from __future__ import annotations

import base64

import pytest
from e2b_code_interpreter import Sandbox


def test_the_last_expression_is_the_main_result(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("1; 'two'; 1 + 2")
    assert execution.text == "3"
    assert [result.is_main_result for result in execution.results] == [True]
    assert execution.error is None
    assert execution.results[0].extra == {}


def test_a_text_has_no_quotes_of_its_own(sandbox: Sandbox) -> None:
    assert sandbox.run_code("'it is'").text == "it is"
    assert sandbox.run_code('"it\'s"').text == "it's"
    assert sandbox.run_code("['a']").text == "['a']"


def test_state_is_kept_between_calls(sandbox: Sandbox) -> None:
    sandbox.run_code("import math; kept = math.factorial(5)")
    assert sandbox.run_code("kept + 1").text == "121"


def test_executions_are_counted(sandbox: Sandbox) -> None:
    first = sandbox.run_code("1").execution_count
    second = sandbox.run_code("1").execution_count
    assert first is not None
    assert second == first + 1


def test_output_is_kept_apart_by_stream(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("import sys; print('out'); print('err', file=sys.stderr); 5")
    assert "".join(execution.logs.stdout) == "out\n"
    assert "".join(execution.logs.stderr) == "err\n"
    assert execution.text == "5"


def test_display_gives_results_that_are_not_main(sandbox: Sandbox) -> None:
    code = """
from IPython.display import HTML, JSON, Javascript, Latex, Markdown, SVG, display
display(HTML("<b>h</b>")); display(Markdown("# m")); display(Latex("$x$"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg'/>")); display(Javascript("1"))
display(JSON({"a": [1]})); display({"application/x-own": "mine", "text/plain": "t"}, raw=True)
"""
    results = sandbox.run_code(code).results
    assert not any(result.is_main_result for result in results)
    assert results[0].html == "<b>h</b>"
    assert results[1].markdown == "# m"
    assert results[2].latex == "$x$"
    assert results[3].svg is not None
    assert results[3].svg.startswith("<svg")
    assert results[4].javascript == "1"
    assert results[5].json == {"a": [1]}
    assert results[6].extra == {"application/x-own": "mine"}


def test_lists_and_dictionaries_come_as_json_too(sandbox: Sandbox) -> None:
    assert sandbox.run_code("[1, {'a': None}]").results[0].json == [1, {"a": None}]
    code = "import numpy; {1: numpy.arange(3)}"
    assert sandbox.run_code(code).results[0].json == {"1": [0, 1, 2]}


def test_a_data_frame_comes_as_table_and_data(sandbox: Sandbox) -> None:
    code = """
import pandas as pd
pd.DataFrame({"n": [1, 2], "day": pd.to_datetime(["2026-01-01", "2026-01-02"])})
"""
    result = sandbox.run_code(code).results[0]
    assert result.data == {
        "n": [1, 2],
        "day": ["2026-01-01T00:00:00", "2026-01-02T00:00:00"],
    }
    assert result.html is not None
    assert "<table" in result.html


@pytest.mark.parametrize(
    ("columns", "data"),
    [
        ("{'t': pd.to_timedelta([1], 's')}", {"t": ["0 days 00:00:01"]}),
        ("{'t': pd.to_datetime(['2026-01-01', None])}", {"t": ["2026-01-01T00:00:00", None]}),
        ("{'x': [1.5, None]}", {"x": [1.5, None]}),
        ("{'d': [__import__('decimal').Decimal('1.10')]}", {"d": ["1.10"]}),
        ("{('a', 'b'): [1]}", {"('a', 'b')": [1]}),
        ("{'l': [[1, 2]]}", {"l": [[1, 2]]}),
    ],
)
def test_frames_of_all_kinds_come_as_data(
    sandbox: Sandbox, columns: str, data: dict[str, object]
) -> None:
    execution = sandbox.run_code(f"import pandas as pd; pd.DataFrame({columns})")
    assert execution.error is None
    assert execution.logs.stderr == []
    assert execution.results[0].data == data
    assert execution.results[0].html is not None


def test_a_figure_comes_as_picture(sandbox: Sandbox) -> None:
    code = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()"
    result = sandbox.run_code(code).results[0]
    assert result.png is not None
    assert base64.b64decode(result.png).startswith(b"\x89PNG")
    assert not result.is_main_result


def test_an_image_is_shown(sandbox: Sandbox) -> None:
    code = "from PIL import Image; picture = Image.new('RGB', (4, 4), 'red'); picture"
    assert sandbox.run_code(code).results[0].png is not None
    saved = sandbox.run_code("picture.save('/tmp/red.png')").results
    assert [result.png is not None for result in saved] == [True]
    assert sandbox.run_code("picture.show()").results == []


def test_a_file_with_an_image_is_shown(sandbox: Sandbox) -> None:
    sandbox.run_code("Image.new('RGB', (4, 4)).save(open('/tmp/x.jpg', 'wb'), 'JPEG')")
    code = "from IPython import display; display.Image('/tmp/x.jpg')"
    assert sandbox.run_code(code).results[0].jpeg is not None


def test_plotly_shows_its_figures(sandbox: Sandbox) -> None:
    code = "import plotly.express as px; px.line(x=[1, 2], y=[3, 4]).show()"
    result = sandbox.run_code(code).results[0]
    assert "application/vnd.plotly.v1+json" in result.extra


def test_an_error_has_name_value_and_traceback(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("print('before')\n1 / 0")
    assert execution.error is not None
    assert execution.error.name == "ZeroDivisionError"
    assert execution.error.value == "division by zero"
    assert "----> 2 1 / 0" in execution.error.traceback
    assert "\x1b" not in execution.error.traceback
    assert execution.logs.stdout == ["before\n"]
    assert sandbox.run_code("1").text == "1"


def test_an_exception_group_is_an_error(sandbox: Sandbox) -> None:
    error = sandbox.run_code("raise ExceptionGroup('several', [ValueError(1)])").error
    assert error is not None
    assert error.name == "ExceptionGroup"


def test_what_is_no_text_loses_nothing(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("print('before'); print(chr(0xD800)); print('after')")
    assert execution.error is None
    assert execution.logs.stderr == []
    assert "".join(execution.logs.stdout) == "before\n?\nafter\n"


def test_exit_leaves_the_state(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("kept = 5; exit()")
    assert execution.error is None
    assert "restart its context" in "".join(execution.logs.stderr)
    assert sandbox.run_code("import time; time.sleep(1.5); kept").text == "5"


def test_glyphs_of_other_scripts_are_drawn(sandbox: Sandbox) -> None:
    code = "import matplotlib.pyplot as plt; plt.plot([1]); plt.title('日本語 中文'); plt.show()"
    execution = sandbox.run_code(code)
    assert execution.results[0].png is not None
    assert execution.logs.stderr == []


def test_input_is_refused(sandbox: Sandbox) -> None:
    error = sandbox.run_code("input('name? ')").error
    assert error is not None
    assert error.name == "StdinNotImplementedError"
    assert "does not support input" in error.value


def test_magics_and_shell_commands_work(sandbox: Sandbox) -> None:
    assert "".join(sandbox.run_code("!echo from the shell").logs.stdout).strip() == "from the shell"
    assert "".join(sandbox.run_code("%%bash\necho magic").logs.stdout) == "magic\n"
    assert sandbox.run_code("%pip install --quiet cowsay==6.1").error is None
    assert sandbox.run_code("import cowsay; cowsay.get_output_string('cow', 'moo')").error is None


def test_what_commands_install_can_be_imported(sandbox: Sandbox) -> None:
    sandbox.commands.run("pip install --quiet pyfiglet==1.0.2")
    assert sandbox.run_code("import pyfiglet; pyfiglet.__name__").text == "pyfiglet"


def test_files_are_shared_with_commands(sandbox: Sandbox) -> None:
    sandbox.files.write("/home/user/table.csv", "a,b\n1,2\n")
    assert sandbox.run_code("import pandas; int(pandas.read_csv('table.csv').b[0])").text == "2"
    sandbox.run_code("open('made.txt', 'w').write('by code')")
    assert sandbox.files.read("made.txt") == "by code"
    sandbox.files.remove("made.txt")


@pytest.mark.parametrize("code", ["", "\n", "# nothing"])
def test_nothing_to_run_is_no_error(sandbox: Sandbox, code: str) -> None:
    execution = sandbox.run_code(code)
    assert execution.error is None
    assert execution.results == []


def test_the_libraries_are_there(sandbox: Sandbox) -> None:
    names = [
        *("numpy", "pandas", "matplotlib", "scipy", "sklearn", "seaborn", "requests", "bs4"),
        *("openpyxl", "PIL", "sympy", "plotly", "statsmodels", "skimage", "cv2", "networkx"),
        *("aiohttp", "bokeh", "docx", "imageio", "joblib", "lxml", "nltk", "pypdf", "pytest"),
        *("pytz", "tabulate", "tqdm", "xarray", "xlrd", "xlsxwriter", "yaml", "ipywidgets"),
    ]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    assert sandbox.run_code(code, timeout=110).error is None
