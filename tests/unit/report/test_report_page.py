from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from orchestrator.report import page, plots
from orchestrator.report.page import sentences, write_report
from orchestrator.report.summary import Scores, summarise

STRANGE = '<b>R&D</b> "7" ${x}|y'


class Page(HTMLParser):
    """Tags, attributes, and the text outside of scripts and styles."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.attributes, self.open, self.scripts, self.styles, self.words = [], [], [], [], []
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        {"script": self.scripts, "style": self.styles}.get(inside, self.words).append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def rendered(folder):
    (folder / "config.yaml").write_text("name: synthetic\nnote: </pre><script>alert(1)</script>\n")
    (folder / "environment.json").write_text(
        json.dumps({"commit": None, "gpus": [], "packages": {"ray": "2.60"}})
    )
    return write_report(folder).read_text(encoding="utf-8")


def test_the_page_is_whole_and_loads_nothing(rendered, folder):
    found = Page(rendered)
    assert found.open == []
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(found.tags)
    assert not [value for _, name, value in found.attributes if name in ("src", "href", "action", "data")]
    assert not re.search(r"url\(|@import", "".join(found.styles))
    assert "default-src 'none'" in rendered
    assert rendered.count("plotly.js v") == 1
    assert (folder / "report.html").stat().st_size < 6e6
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_sections_come_in_order(rendered):
    titles = re.findall(r"<h2>(.*?)</h2>", rendered)
    assert titles == [
        "AUROC by pair",
        "Class by class",
        "What was chosen, and why",
        "Which proxies tell good from bad",
        "Choosing K, and whether to cluster at all",
        "Failures",
        "How to reproduce",
    ]
    for name in ("by-class", "by-proxy", "by-k"):
        assert rendered.count(f'<div id="{name}"') == 1


def test_what_the_page_says(rendered, folder):
    text = Page(rendered).text
    summary = summarise(folder)
    for line in sentences(summary):
        assert line in text
    for expected in ("density 60 %, no training, kNN score", "NonFinite: the loss is not finite", "2.60"):
        assert expected in text
    assert "nothing beat the default in at least 80 % of the resamples" in text


def test_names_are_escaped_everywhere(rendered):
    assert "<b>R&D" not in rendered
    assert "<script>alert" not in rendered
    assert STRANGE in Page(rendered).text
    # plotly reads a little HTML in its labels: what it decodes to must be the name itself.
    figures = [script for script in Page(rendered).scripts if "Plotly.newPlot" in script]
    assert len(figures) == 3
    assert "\\u0026lt;b" in figures[0] or "&lt;b" in figures[0]
    assert "\\u003cb\\u003eR" not in figures[0]


def test_equal_inputs_give_equal_bytes(folder):
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_a_failed_write_leaves_the_old_page(folder, monkeypatch):
    before = write_report(folder).read_bytes()

    def broken(*_):
        raise RuntimeError("no figure")

    monkeypatch.setattr(plots, "proxy_figure", broken)
    with pytest.raises(RuntimeError):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before


def test_without_labels(sweep, tmp_path):
    sweep.aurocs.clear()
    text = write_report(sweep.write(tmp_path)).read_text(encoding="utf-8")
    words = Page(text).text
    assert "No labels were given" in words
    assert "Choosing K" in words
    assert "density 60 %, no training, kNN score" in words
    for absent in ("AUROC by pair", "regret", "Which proxies", "oracle"):
        assert absent not in words
    assert 'id="by-class"' not in text


def test_one_pair_needs_no_list(build, tmp_path):
    summary = summarise(build(pairs=(("a", "b"),), classes=("x",)).write(tmp_path))
    (line,) = sentences(summary)
    assert line.startswith("On a → b (1 class), the configurations chosen without labels reach")
    page.render_page(summary, (), None, {})


def test_several_contaminations_get_a_menu_and_a_plot(build, tmp_path):
    summary = summarise(build(contaminations=(0.1, 0.3), split_seeds=(0, 1)).write(tmp_path))
    text = page.render_page(summary, (), None, {})
    assert '<div id="by-contamination"' in text
    assert "Over seeds and splits" in Page(text).text
    assert len(sentences(summary)) == 3
    figure = plots.class_figure(summary)
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["contamination 0.1", "contamination 0.3"]
    shown = [button.args[0]["visible"] for button in buttons]
    assert [a != b for a, b in zip(*shown, strict=True)] == [True] * len(figure.data)


def test_nothing_finished(sweep, tmp_path):
    sweep.records = [r for r in sweep.records if r.state == "failed"]
    sweep.aurocs.clear()
    sweep.choices.clear()
    words = Page(write_report(sweep.write(tmp_path)).read_text(encoding="utf-8")).text
    assert "No unit finished, so nothing was chosen." in words
    assert "No configuration was chosen for" in words
    assert "4 of 4 units failed" in words


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (Scores(default=80, random=70, chosen=85, best=90), "85.0: 5.0 above the default (80.0)"),
        (Scores(default=80, random=70, chosen=80, best=90), "equal to the default (80.0)"),
        (Scores(default=80, random=70, chosen=75, best=90), "Keeping the default would have been better."),
        (Scores(default=60, random=70, chosen=65, best=90), "Picking at random would have been better."),
        (Scores(random=70, chosen=65, best=90), "-25 % of the gap from random to best closed"),
        (Scores(random=70, best=90), "a chosen unit has no AUROC"),
    ],
)
def test_wins_and_losses_are_said_alike(folder, scores, expected):
    summary = dataclasses.replace(summarise(folder), overall=scores)
    assert expected in sentences(summary)[0]


def test_panels_hold_the_numbers_of_the_summary(folder):
    summary = summarise(folder)
    figure = plots.class_figure(summary)
    chosen = [trace for trace in figure.data if trace.name == "chosen"]
    assert [list(trace.x) for trace in chosen] == [
        [entry.scores.chosen for entry in pair.classes] for pair in summary.pairs
    ]
    assert sum(bool(trace.showlegend) for trace in chosen) == 1


def test_points_of_a_proxy_average_to_the_random_pick(folder):
    summary = summarise(folder)
    points = plots._proxy_points(summary, "consensus")
    assert len(points) == sum(len(setting.candidates) for setting in summary.settings)
    assert sum(point.gain for point in points) == pytest.approx(0, abs=1e-6)
    assert {0.0, 100.0} <= {point.rank for point in points}
