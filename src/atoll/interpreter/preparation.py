"""Runs inside every Python kernel before it takes code: what it shows, and what it knows already.

It is an extension of IPython and is loaded in the kernel's process, with the libraries of the
kernel, under the module name `_interpreter`; nothing of it is in the user's namespace.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

_SWITCH_SECONDS = 0.0005
"""How long one thread of Python may keep others from running. What an execution prints and shows is
sent by a thread of its own, which by Python's default waits up to 5 ms for each message."""

_WARM = ("numpy", "pandas", "matplotlib.pyplot", "PIL.Image", "e2b_charts", "orjson")
"""Imported before the sandbox is anybody's, so that an `import` of them costs nothing."""


def set_variables(variables: dict[str, str | None]) -> None:
    """Set environment variables; None removes one."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _as_data(frame: Any) -> Any:
    """A data frame as lists by column, with dates as text (E2B's `data` format)."""
    return {
        str(column): [_as_plain(each) for each in values.tolist()]
        for column, values in frame.items()
    }


def _as_plain(value: Any) -> Any:
    """A cell as something that JSON has: what it has not is text."""
    import pandas

    if isinstance(value, (list, dict)):
        return _as_json(value)
    if pandas.isna(value) is True:
        return None
    if isinstance(value, (str, bool, int, float)):
        return value if value not in (float("inf"), float("-inf")) else None
    if hasattr(value, "isoformat") and not isinstance(value, pandas.Timedelta):
        return value.isoformat()
    return str(value)


def _as_chart(figure: Any) -> Any:
    """A figure as the chart that it shows; an empty object when it shows none that is known."""
    import e2b_charts

    try:
        return e2b_charts.chart_figure_to_dict(figure)
    except Exception:
        return {}


def _as_json(value: Any) -> Any:
    """A list or dictionary as JSON, arrays and keys of other types included, where it can be."""
    import orjson

    try:
        text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError):
        return None
    return orjson.loads(text)


def _add_formats(shell: Any) -> None:
    from IPython.core.formatters import BaseFormatter, JSONFormatter
    from traitlets import ObjectName, Unicode

    class DataFormatter(BaseFormatter):
        format_type = Unicode("e2b/data")
        print_method = ObjectName("_repr_e2b_data_")
        _return_type = dict

    class ChartFormatter(BaseFormatter):
        format_type = Unicode("e2b/chart")
        print_method = ObjectName("_repr_e2b_chart_")
        _return_type = dict

    formatters = shell.display_formatter.formatters
    data = formatters["e2b/data"] = DataFormatter(parent=shell.display_formatter)
    data.for_type_by_name("pandas.core.frame", "DataFrame", _as_data)
    data.for_type_by_name("pandas", "DataFrame", _as_data)  # its name since pandas 3
    chart = formatters["e2b/chart"] = ChartFormatter(parent=shell.display_formatter)
    chart.for_type_by_name("matplotlib.figure", "Figure", _as_chart)
    as_json: JSONFormatter = formatters["application/json"]
    as_json.for_type(dict, _as_json)
    as_json.for_type(list, _as_json)
    formatters["text/plain"].max_seq_length = 0  # nothing is left out of a long list


def _show_saved_images(shell: Any) -> None:
    """An image that is saved to a file is shown, too; `show` has no screen to open a window on."""
    from IPython.display import display
    from PIL import Image

    save = Image.Image.save

    def save_and_show(self: Any, fp: Any, *arguments: Any, **options: Any) -> None:
        save(self, fp, *arguments, **options)
        if isinstance(fp, str):
            display(self)

    Image.Image.save = save_and_show
    Image.Image.show = lambda self, *arguments, **options: None


def pack(message: Any) -> bytes:
    """A message as Jupyter's JSON. Text may hold what UTF-8 has no form for: it is escaped."""
    from jupyter_client.session import json_default, orjson_packer

    try:
        packed: bytes = orjson_packer(message)
    except UnicodeEncodeError:
        packed = json.dumps(message, default=json_default).encode()
    return packed


def _show_groups(shell: Any) -> None:
    """IPython prints groups of exceptions, and takes the execution for a success."""

    def show(shell: Any, kind: Any, group: Any, trace: Any, tb_offset: Any = None) -> list[str]:
        lines = traceback.format_exception(kind, group, trace)
        shell._showtraceback(kind, group, lines)
        return lines

    shell.set_custom_exc((BaseExceptionGroup,), show)


def _keep_running(shell: Any) -> None:
    """`exit()` would end the kernel a moment later, in the middle of whatever runs then."""

    def refuse() -> None:
        print("exit: the kernel goes on; restart its context to begin anew", file=sys.stderr)

    shell.ask_exit = refuse


def _choose_fonts() -> None:
    """A glyph that the first font lacks is taken from the next."""
    import matplotlib

    matplotlib.rcParams["font.family"] = ["DejaVu Sans", "Noto Sans CJK JP"]


def load_ipython_extension(shell: Any) -> None:
    """Make the kernel ready. A library that the sandbox has lost leaves out what needs it."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    shell.run_line_magic("matplotlib", "inline")
    for name in _WARM:
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"interpreter: {name} can't be imported: {error}", file=sys.__stderr__)
    _add_formats(shell)
    _keep_running(shell)
    _show_groups(shell)
    if "matplotlib.pyplot" in sys.modules:
        _choose_fonts()
    if "PIL.Image" in sys.modules:
        _show_saved_images(shell)
