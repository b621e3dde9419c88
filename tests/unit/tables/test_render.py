from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from orchestrator.tables.latex import escaped as latex_escaped
from orchestrator.tables.latex import latex
from orchestrator.tables.layout import blocks, lay_out, paper_figures
from orchestrator.tables.long_csv import FIELDS, long_csv
from orchestrator.tables.markdown import markdown
from orchestrator.tables.render import terminal, write
from orchestrator.tables.result import Cell, Column, PaperFigures, Row, TableResult
from trainables.scores.base import SCORES

FILES = ["table.md", "table.tex", "table.csv", "table.png"]
STRANGE = "R&D_5% #1 {x} | ~a^b \\c $y$ a->b → ρ−1 <b> *s* `t` 中 --set"
PAIRS = ("typeset->mnist", "typeset->optdigits")
MANY = ("photo->art_painting", "photo->cartoon", "photo->sketch", "Clipart->Product", "Product->Clipart")


def printed(result, width, **options):
    console = Console(width=width, record=True, file=io.StringIO(), **options)
    console.print(terminal(result))
    return console


def words_of(text):
    return set(re.findall(r"\w+", text))


def strange(build):
    table = build(rows={"a": STRANGE, "b": "plain"}, columns=("x->y",), groups=("",))
    return replace(
        table,
        title=STRANGE,
        data=STRANGE,
        columns=(Column("x->y", STRANGE),),
        missing=(STRANGE,),
        paper=(PaperFigures(STRANGE, STRANGE, {"a": 70.0}, None),),
    )


def test_all_four_files_are_written_whole_and_equal_results_give_equal_bytes(result, tmp_path):
    paths = write(result, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == FILES
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write(result, tmp_path / "again")] == before
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(FILES)
    assert before[3].startswith(b"\x89PNG")


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_the_terminal_breaks_no_word_and_keeps_its_width(result, build, width):
    for table in (result, strange(build), build("many", columns=MANY), build("seeds", groups=("",))):
        text = printed(table, width).export_text()
        assert max(map(cell_len, text.splitlines())) <= width
        assert "…" not in text
        wanted = [row.label for row in table.rows] + [claim.text for claim in table.claims]
        wanted += [column.label for column in table.columns] + list(table.missing)
        assert words_of(" ".join(wanted)) <= words_of(text)


def test_cells_fold_where_that_saves_a_table_and_only_there(build):
    many = build("many", columns=MANY)
    assert "61.0 [59.5, 62.5]" in printed(many, 200).export_text()
    narrow = printed(many, 100).export_text()
    assert "61.0 [59.5, 62.5]" not in narrow
    assert narrow.count("\nsystem ") == 1
    # Two tables at any rate.
    seeds = printed(build("seeds", groups=("",)), 80).export_text()
    assert "61.0 [59.5, 62.5]" in seeds
    assert seeds.count("\nsystem ") == 2


def test_numbers_of_a_column_stand_below_each_other_beside_a_mark(result):
    lines = printed(result, 120).export_text().splitlines()
    (marked,) = [line for line in lines if "†" in line and "75.0" in line]
    (unmarked,) = [line for line in lines if "87.1 [" in line]
    assert marked.index("[") == unmarked.index("[")


def test_the_best_of_a_column_is_bold_everywhere(result):
    text = markdown(lay_out(result), "table.png")
    assert re.findall(r"\*\*(\d+\.\d)\*\*", text) == ["87.1", "90.1"]
    assert re.findall(r"\\textbf\{(\d+\.\d)\}", latex(lay_out(result))) == ["87.1", "90.1"]
    styled = printed(result, 120, force_terminal=True, color_system="standard").export_text(styles=True)
    assert re.findall(r"\x1b\[1m(\d+\.\d)\x1b", styled) == ["87.1", "90.1"]


def test_what_is_equal_on_paper_is_equally_good(build):
    table = build(rows={"a": "A", "b": "B", "c": "C"}, columns=("x",), groups=("",))
    cells = {
        (name, "x"): Cell(mean, 70, 90, None, None, 1, 1)
        for name, mean in {"a": 80.04, "b": 79.96, "c": 79.94}.items()
    }
    layout = lay_out(replace(table, cells=cells))
    assert [layout.entries(row)[0].best for row in table.rows] == [True, True, False]


def test_the_papers_figures_stand_beside_their_column_and_its_others_last(result):
    layout = lay_out(result)
    assert [heading.text for heading in layout.headings] == [
        "typeset→mnist",
        "paper",
        "typeset→optdigits",
        "paper: visda CAD→real",
    ]
    entries = {row.name: [entry.text for entry in layout.entries(row)] for row in result.rows}
    assert entries["mmd.source_centre"] == ["68.1", "83.9", "71.1", "73.1"]
    assert entries["none.source_centre"] == ["61.0", "", "64.0", ""]
    # The paper has one score: beside the others its figures would mislead.
    assert entries["contrastive.knn"][1::2] == ["", ""]


def test_a_figure_can_name_its_row_with_the_score_too(build):
    for name in ("a", "a.source_centre"):
        table = build(rows={"a": "A"}, paper=(PaperFigures("P", "d", {name: 73.5}, PAIRS[0]),))
        assert paper_figures(table, table.paper[0]) == {"a.source_centre": 73.5}


def test_a_row_that_is_not_built_shows_the_papers_figures_alone(build):
    table = build(rows={"ours": "ours"}, columns=("x",))
    rows = (*table.rows, Row("irad", "IRAD"))
    paper = (PaperFigures("P", "d", {"irad": 73.53, "unknown": 1.0}, "x"), PaperFigures("Q", "d", {}, None))
    layout = lay_out(replace(table, rows=rows, paper=paper))
    assert [heading.text for heading in layout.headings] == ["x", "paper"]
    assert [entry.text for entry in layout.entries(rows[-1])] == ["–", "73.5"]
    assert layout.blocks[-1].heading == "other systems"


def test_groups_have_a_heading_in_words_and_a_table_without_scores_none(result, build):
    assert [block.heading for block in blocks(result)] == [
        "distance to the source centre (the paper's score)",
        "distance to the nearest trusted embeddings (kNN)",
    ]
    assert [block.heading for block in blocks(build(groups=("",)))] == [""]
    assert blocks(build(groups=("new_idea",)))[0].heading == "new idea score"


@pytest.mark.parametrize("name", SCORES.names())
def test_every_score_has_words_of_its_own(build, name):
    assert "distance" in blocks(build(groups=(name,)))[0].heading


def test_marks_are_explained_where_they_occur_and_nowhere_else(result, build):
    notes = " ".join(lay_out(result).notes)
    assert "– not measured" in notes
    assert "† incomplete" in notes
    assert "paper:" in notes
    assert lay_out(build(groups=("",))).notes == ()


def test_claims_and_provenance(result):
    text = markdown(lay_out(result), "table.png")
    assert "- **holds**: Contrastive alignment beats MMD: +2.3 points [+0.4, +4.1]" in text
    assert "- **does not hold**: MMD beats CORAL: −3.1 points [−5.0, −1.0]" in text
    assert "- **not measured here**: IRAD beats ILDR on few shots\n" in text
    assert "data digits; encoder efficientnet_lite0; backbone efficientnet_lite0; epochs 6;" in text
    assert "seeds 0, 1, 2; split seeds 0; commit cef5376; hardware gpus NVIDIA H100, cpus 16." in text


def test_the_seeds_table_shows_both_spreads(build):
    layout = lay_out(build("seeds", rows={"a": "A"}, columns=("x",), groups=("",)))
    assert [heading.text for heading in layout.headings] == ["x", "± classes", "± seeds"]
    (row,) = layout.blocks[0].rows
    assert [entry.text for entry in layout.entries(row)] == ["61.0", "4.2", "0.6"]
    assert "standard deviation over classes" in layout.notes[0]


def test_markdown_is_a_valid_table(result, build):
    for table in (result, strange(build), build("many", columns=MANY)):
        lines = [line for line in markdown(lay_out(table), "t.png").splitlines() if line.startswith("|")]
        bars = {len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in lines}
        assert bars == {len(lay_out(table).headings) + 2}
        assert set(lines[1]) <= set("|-: ")
    text = markdown(lay_out(strange(build)), "t.png")
    assert "\\| \\~a^b \\\\c \\$y\\$" in text
    assert "\\<b> \\*s\\* \\`t\\`" in text


def without_commands(text):
    """LaTeX without comments, escaped characters, commands, formulas made here, and cell separators."""
    text = re.sub(r"(?m)^%.*$", "", text)
    text = re.sub(r"\$(\^?\\[a-z]+|-)\$", "", text, flags=re.IGNORECASE)
    text = re.sub(r"\\\\", "", text)
    return re.sub(r"\\([a-zA-Z]+|[&%$#_{}])", "", text)


def test_latex_is_balanced_and_escaped(result, build):
    for table in (result, strange(build), build("many", columns=MANY), build("seeds")):
        text = latex(lay_out(table))
        rest = without_commands(text)
        assert not set("%$#_~^<>|\\ρ→中") & set(rest)
        assert rest.count("{") == rest.count("}")
        assert re.findall(r"\\begin\{(\w+)\}", text) == ["table", "tabular", "minipage"]
        assert re.findall(r"\\end\{(\w+)\}", text) == ["tabular", "minipage", "table"]
        rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        separators = {len(re.findall(r"(?<!\\)&", row)) for row in rows}
        assert separators == {len(lay_out(table).headings)}
    assert "-{}-set" in latex(lay_out(strange(build)))
    assert "[U+4E2D]" in latex(lay_out(strange(build)))


def test_a_row_that_begins_with_a_bracket_is_no_option_of_the_line_before(build):
    table = build(rows={"a": "[a]"}, columns=("x",), groups=("",))
    assert "\n{}[a] & " in latex(lay_out(table))


@given(st.text())
def test_no_text_leaves_a_special_character_of_latex_unescaped(text):
    rest = without_commands(latex_escaped(text))
    assert not set("&%$#_~^<>|\\") & set(rest)
    assert rest.count("{") == rest.count("}")
    assert "--" not in rest


NUMBERS = st.floats(0, 100, allow_nan=False)
CELLS = st.builds(
    Cell,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.none() | NUMBERS,
    st.none() | NUMBERS,
    st.integers(0, 99),
    st.integers(0, 99),
)
NAMES = st.text("abc.09_", min_size=1, max_size=5)


@st.composite
def tables(draw):
    rows = draw(st.lists(NAMES, unique=True, min_size=1, max_size=4))
    columns = draw(st.lists(NAMES, unique=True, min_size=1, max_size=4))
    addresses = [(row, column) for row in rows for column in columns]
    cells = draw(st.dictionaries(st.sampled_from(addresses), CELLS))
    figures = draw(st.dictionaries(st.sampled_from(rows), NUMBERS))
    return TableResult(
        name="t",
        title="t",
        question="q",
        data="d",
        axis=None,
        rows=tuple(Row(row, row) for row in rows),
        columns=tuple(Column(column, column) for column in columns),
        cells=cells,
        paper=(PaperFigures("p", "d", figures, columns[0]),),
        claims=(),
        missing=(),
        provenance={},
    )


@given(tables())
def test_every_number_of_the_csv_is_that_of_its_cell(table):
    lines = list(csv.DictReader(io.StringIO(long_csv(table))))
    assert len(lines) == len(table.rows) * len(table.columns)
    assert tuple(lines[0]) == FIELDS
    for line in lines:
        cell = table.cells.get((line["row"], line["column"]))
        for name in FIELDS[2:-1]:
            value = getattr(cell, name, None)
            assert (float(line[name]) if line[name] else None) == value
        ours = line["column"] == table.columns[0].name
        figure = table.paper[0].figures.get(line["row"]) if ours else None
        assert (float(line["paper"]) if line["paper"] else None) == figure


@given(tables())
def test_every_column_that_is_measured_has_a_best_row_and_none_above_it(table):
    layout = lay_out(table)
    for index, column in enumerate(table.columns):
        means = {
            row.name: table.cells[row.name, column.name].mean
            for row in table.rows
            if (row.name, column.name) in table.cells
        }
        best = {name for name in means if layout.strips[index].entries[name][0].best}
        if means:
            assert max(means, key=means.__getitem__) in best
        assert len({round(means[name], 1) for name in best}) <= 1


def test_the_csv_has_the_papers_other_columns_too(result):
    lines = list(csv.DictReader(io.StringIO(long_csv(result))))
    others = {line["row"]: line["paper"] for line in lines if line["column"] == "visda CAD→real"}
    assert others == {
        "grl.source_centre": "71.84",
        "mmd.source_centre": "73.12",
        "contrastive.source_centre": "75.54",
    }
