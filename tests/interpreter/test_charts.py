"""Charts arrive as the client's own types."""

from __future__ import annotations

from e2b_code_interpreter import Sandbox
from e2b_code_interpreter.charts import (
    BarChart,
    BoxAndWhiskerChart,
    Chart,
    ChartType,
    LineChart,
    PieChart,
    ScatterChart,
    SuperChart,
)

_PLOT = "import matplotlib.pyplot as plt; plt.close('all'); figure, axes = plt.subplots()\n"


def _draw(sandbox: Sandbox, code: str) -> Chart:
    chart = sandbox.run_code(_PLOT + code + "\nplt.show()").results[0].chart
    assert chart is not None
    return chart


def test_line(sandbox: Sandbox) -> None:
    chart = _draw(
        sandbox,
        "axes.plot([1, 2, 3], [2, 4, 8], label='growth'); axes.set_title('T')\n"
        "axes.set_xlabel('time'); axes.set_ylabel('size')",
    )
    assert isinstance(chart, LineChart)
    assert (chart.title, chart.x_label, chart.y_label) == ("T", "time", "size")
    assert chart.elements[0].label == "growth"
    assert chart.elements[0].points == [(1, 2), (2, 4), (3, 8)]


def test_scatter(sandbox: Sandbox) -> None:
    chart = _draw(sandbox, "axes.scatter([1, 2], [3, 4], label='dots')")
    assert isinstance(chart, ScatterChart)
    assert chart.elements[0].points == [(1, 3), (2, 4)]


def test_bar(sandbox: Sandbox) -> None:
    chart = _draw(sandbox, "axes.bar(['a', 'b'], [1, 2])")
    assert isinstance(chart, BarChart)
    assert [(bar.label, bar.value) for bar in chart.elements] == [("a", 1), ("b", 2)]


def test_pie(sandbox: Sandbox) -> None:
    chart = _draw(sandbox, "axes.pie([1, 3], labels=['x', 'y'])")
    assert isinstance(chart, PieChart)
    assert [slice_.label for slice_ in chart.elements] == ["x", "y"]


def test_box(sandbox: Sandbox) -> None:
    chart = _draw(sandbox, "axes.boxplot([[1, 2, 3, 4, 5], [2, 3, 4, 9]], patch_artist=True)")
    assert isinstance(chart, BoxAndWhiskerChart)
    assert [(box.min, box.median, box.max) for box in chart.elements] == [(1, 3, 5), (2, 3.5, 9)]


def test_several_axes_are_a_superchart(sandbox: Sandbox) -> None:
    chart = (
        sandbox.run_code(
            "import matplotlib.pyplot as plt; plt.close('all')\n"
            "figure, (left, right) = plt.subplots(1, 2); left.plot([1, 2]); right.bar(['a'], [1])\n"
            "plt.show()"
        )
        .results[0]
        .chart
    )
    assert isinstance(chart, SuperChart)
    assert [each.type for each in chart.elements] == [ChartType.LINE, ChartType.BAR]
