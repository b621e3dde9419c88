from __future__ import annotations

import dataclasses
import re

import pytest

from orchestrator.report import plots
from orchestrator.report.page import write_report
from orchestrator.report.training import QUANTITIES, Curve, Panel, read_training


def with_epochs(sweep, epochs_of):
    """The sweep whose units have the epochs that ``epochs_of(record)`` gives."""
    sweep.records = [dataclasses.replace(record, epochs=epochs_of(record)) for record in sweep.records]
    return sweep


def epoch(number, **values):
    return {"epoch": float(number), "loss_dsvdd": 0.1, **values}


def trained(record):
    """Six epochs of a contrastive training: its rank halves, and the classes differ."""
    if record.config["alignment"] != "contrastive":
        return []
    level = {"dog": 1.0, "giraffe": 2.0}.get(record.normal_class, 6.0)
    return [
        epoch(i, loss=3.0 / i, effective_rank=10 * level / i, score_spread=0.5, negatives_inside=0.2)
        for i in range(1, 7)
    ]


def read(sweep, tmp_path):
    return {panel.quantity: panel for panel in read_training(sweep.write(tmp_path) / "units.parquet")}


def test_curves_are_medians_and_quartiles_over_settings(build, tmp_path):
    panels = read(with_epochs(build(pairs=(("a", "b"),)), trained), tmp_path)
    assert list(panels) == list(QUANTITIES)
    (curve,) = panels["effective_rank"].curves
    assert (curve.alignment, curve.epochs) == ("contrastive", (1, 2, 3, 4, 5, 6))
    # 10, 20 and 60 in the first epoch of the three classes.
    assert (curve.low[0], curve.median[0], curve.high[0]) == (15.0, 20.0, 40.0)
    assert curve.median[1] == 10.0


def test_a_training_that_units_share_counts_once(build, tmp_path):
    ranks = {"knn": 5.0, "source_centre": 5.0}

    def shared(record):
        config = record.config
        if config["alignment"] != "contrastive":
            return []
        # All but one clusterer share the numbers: two trainings, of rank 5 and 9, in many units.
        rank = 9.0 if config.get("keep") else ranks[config["score"]]
        objective = {"objective": 1.0} if config["score"] == "knn" else {}
        return [epoch(1, loss=1.0, effective_rank=rank, **objective)]

    sweep = with_epochs(build(pairs=(("a", "b"),), classes=("x",)), shared)
    (curve,) = read(sweep, tmp_path)["effective_rank"].curves
    assert curve.median == (7.0,)


def test_trainings_of_different_lengths_and_alignments(build, tmp_path):
    def uneven(record):
        if record.config["alignment"] == "identity":
            return []
        name = record.normal_class
        count = 1 if name == "dog" else 3
        inside = {} if name == "dog" else {"negatives_inside": 0.5}
        return [epoch(i, loss=1.0, effective_rank=4.0 * i, **inside) for i in range(1, count + 1)]

    sweep = build(pairs=(("a", "b"),), classes=("dog", "cat"))
    panels = read(with_epochs(sweep, uneven), tmp_path)
    assert list(panels) == ["loss", "effective_rank", "negatives_inside"]
    by_alignment = {curve.alignment: curve for curve in panels["effective_rank"].curves}
    assert list(by_alignment) == ["contrastive", "none"]
    assert by_alignment["contrastive"].epochs == (1, 2, 3)
    assert panels["negatives_inside"].curves[0].epochs == (1, 2, 3)


def test_failed_units_and_those_with_labels_do_not_count(build, tmp_path):
    def odd(record):
        hidden = record.state == "failed" or record.config["supervision"] == "oracle"
        return [epoch(1, loss=1.0, effective_rank=1e6 if hidden else 2.0)]

    panels = read(with_epochs(build(), odd), tmp_path)
    assert {value for curve in panels["effective_rank"].curves for value in curve.high} == {2.0}


def losses_alone(record):
    return [epoch(1, loss=1.0)]


def nothing(record):
    return []


@pytest.mark.parametrize("epochs_of", [nothing, losses_alone])
def test_the_section_is_absent_without_the_numbers(sweep, tmp_path, epochs_of):
    folder = with_epochs(sweep, epochs_of).write(tmp_path)
    assert read_training(folder / "units.parquet") == ()
    text = write_report(folder).read_text(encoding="utf-8")
    assert "<h2>Training</h2>" not in text
    assert 'id="by-epoch"' not in text


def test_the_section_explains_every_panel(sweep, tmp_path):
    text = write_report(with_epochs(sweep, trained).write(tmp_path)).read_text(encoding="utf-8")
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles[-3:] == ["Training", "Failures", "How to reproduce"]
    assert text.count('<div id="by-epoch"') == 1
    terms = re.findall(r"<dt>(.*?)</dt><dd>(.+?)</dd>", text.split("<h2>Training</h2>")[1])
    assert [term for term, _ in terms] == [
        "loss",
        "effective rank",
        "score spread",
        "negatives inside the band",
    ]


def test_a_line_and_a_band_per_alignment_share_a_legend_entry():
    curves = (
        Curve("contrastive", (1, 2), (0.2, 0.3), (0.1, 0.2), (0.3, 0.4)),
        Curve("new_one", (1,), (0.5,), (0.5,), (0.5,)),
    )
    figure = plots.training_figure([Panel("loss", curves), Panel("negatives_inside", curves[:1])])
    band, line = figure.data[:2]
    assert (list(line.x), list(line.y)) == ([1, 2], [0.2, 0.3])
    assert list(band.y) == [0.3, 0.4, 0.2, 0.1]
    assert band.legendgroup == line.legendgroup == "contrastive"
    assert [trace.name for trace in figure.data if trace.showlegend] == ["contrastive", "new one"]
    assert plots.training_figure([]) is None
