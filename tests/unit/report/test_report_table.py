from __future__ import annotations

import dataclasses

import pytest
from rich.console import Console

from orchestrator.report import table
from orchestrator.report.summary import Scores, summarise


def printed(summary, **options):
    console = Console(width=100, record=True, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table.render(summary, **options))
    return console.export_text()


def test_the_table_fits_and_names_everything(folder):
    text = printed(summarise(folder), per_class=True)
    assert max(map(len, text.splitlines())) <= 100
    assert "typeset→mnist" in text
    assert "density 60 %, no training, kNN" in text
    assert "…" not in text
    assert "4 of 156 units failed." in text


def test_long_names_and_several_contaminations_still_fit(build, tmp_path):
    pairs = (("a_really_rather_long_domain_name", "another_long_domain"),)
    summary = summarise(build(pairs=pairs, contaminations=(0.05, 0.3), split_seeds=(0, 1)).write(tmp_path))
    text = printed(summary, per_class=True)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "0.05" in text
    assert "split 1" in text


def test_the_best_without_labels_is_bold_and_the_oracle_never(folder):
    summary = summarise(folder)
    overall = Scores(default=80.04, random=70, chosen=79.96, best=99)
    row = table.rows(dataclasses.replace(summary, overall=overall))[-1]
    assert row.name == "mean"
    assert row.leaders == {"default", "chosen"}
    assert (row.cells["published"], row.regret, row.gap) == ("–", "19.0", "34 %")


def test_one_pair_has_no_row_of_means(build, tmp_path):
    summary = summarise(build(pairs=(("a", "b"),)).write(tmp_path))
    assert [row.name for row in table.rows(summary)] == ["a → b"]


def test_markdown_has_the_same_numbers_and_equal_columns(build, tmp_path):
    summary = summarise(build(pairs=(("a|b", "c"), ("d", "e"))).write(tmp_path))
    lines = table.markdown(summary).splitlines()
    assert len(lines) == 2 + 3
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert table.number(summary.overall.chosen) in lines[-1]
    assert "**" in lines[-1]
    assert "a\\|b → c" in lines[2]


def test_without_labels_the_choices_are_shown(sweep, tmp_path):
    sweep.aurocs.clear()
    summary = summarise(sweep.write(tmp_path))
    text = printed(summary)
    assert "AUROC in percent" not in text
    assert "No labels were given" in text
    assert "low" in text
    assert "| pair | class | chosen | trust |" in table.markdown(summary)


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (-0.04, "0.0"), (-1.26, "-1.3"), (100.0, "100.0")])
def test_numbers(value, text):
    assert table.number(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.744, "74 %"), (-0.2, "-20 %"), (-0.001, "0 %")])
def test_percentages(value, text):
    assert table.percent(value) == text
