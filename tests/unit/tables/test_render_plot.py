from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.tables import plot
from orchestrator.tables.result import Column, PaperFigures

KS = {str(k): f"K = {k}" for k in (2, 5, 10)} | {"all": "no clustering"}
RHOS = ("rho=0", "rho=0.1", "rho=0.3")


def texts(axes):
    return [text.get_text() for text in axes.texts]


def named(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


def test_bars_a_panel_per_column_with_intervals_and_the_papers_diamonds(result):
    left, right = plot.draw(result).axes
    assert [left.get_title(loc="left"), right.get_title(loc="left")] == ["typeset→mnist", "typeset→optdigits"]
    assert (len(left.patches), len(right.patches)) == (12, 11)
    assert "75.0†" in "".join(texts(left))
    assert "  not\n  measured" in texts(right)
    widths = [patch.get_x() + patch.get_width() for patch in left.patches]
    assert widths[0] == pytest.approx(61.0)
    assert len(left.collections) == 12
    assert sorted(line.get_xdata()[0] for line in named(left, "the paper's figure")) == [83.49, 83.92, 87.72]
    assert not named(right, "the paper's figure")


def test_lines_over_numeric_rows_a_panel_per_column_and_a_line_per_group(build):
    paper = (PaperFigures("P", "d", {"2": 80.0, "all": 70.0}, "x"),)
    table = build("k", rows=KS, columns=("x", "y"), axis="K", paper=paper)
    figure = plot.draw(table)
    assert len(figure.axes) == 2
    (line,) = named(figure.axes[0], "distance to the nearest trusted embeddings (kNN)")
    assert list(line.get_xdata()) == [2, 5, 10]
    means = [table.cells[f"{k}.knn", "x"].mean for k in (2, 5, 10)]
    assert list(line.get_ydata()) == means
    # What has no place on the axis is a level line, once per group.
    assert len(named(figure.axes[0], "no clustering")) == 2
    assert [list(mark.get_xdata()) for mark in named(figure.axes[0], "the paper's figure")] == [[2]]


def test_lines_over_contamination_a_panel_per_group_and_a_line_per_row(build):
    figure = plot.draw(build("contamination", rows={"a": "A", "b": "B"}, columns=RHOS))
    assert len(figure.axes) == 2
    for axes in figure.axes:
        (line,) = named(axes, "A")
        assert list(line.get_xdata()) == [0, 0.1, 0.3]


@pytest.mark.parametrize(
    "parts",
    [
        {"columns": tuple(f"photo->domain_{i}" for i in range(7))},
        {"columns": ("x",), "groups": ("",)},
        {"rows": KS, "columns": ("x",), "axis": "K"},
        {"columns": RHOS, "groups": ("",)},
        {"columns": ("rho=0.1",), "groups": ("",)},
    ],
)
def test_equal_results_give_equal_bytes(build, tmp_path, parts):
    for name in ("a", "b"):
        plot.save_plot(build(**parts), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "parts",
    [{"columns": ("x", "y")}, {"rows": KS, "columns": ("x", "y"), "axis": "K"}, {"columns": RHOS}],
)
def test_a_table_of_which_nothing_is_measured_is_drawn_too(build, tmp_path, parts):
    plot.save_plot(replace(build(**parts), cells={}), tmp_path / "plot")


def test_odd_names_are_drawn_as_they_are(build, tmp_path):
    odd = "R&D_5% $x$ \\frac {中}"
    table = build(rows={"a": odd}, columns=("x",), groups=("",), title=odd)
    plot.save_plot(replace(table, columns=(Column("x", odd),)), tmp_path / "plot")
