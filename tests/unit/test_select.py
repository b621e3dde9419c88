"""The label-free choice on records made up for the purpose, with planted proxies whose answer is known."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.ledger import Ledger, UnitRecord
from orchestrator.proxies.base import PROXIES, Proxy, ScoreEvidence
from orchestrator.select import (
    Chooser,
    choose,
    gather_candidates,
    mean_ranks,
    score_tail,
    select_folder,
)
from orchestrator.storage import Storage
from orchestrator.worth import worth
from trainables.configuration import Configuration
from trainables.errors import TwofoldError, UndefinedScore
from trainables.seeding import canonical_json, generator, stable_hash
from trainables.types import Contamination

M = 24
CHOOSER = Chooser(evidence=(("planted", 10.0),), stage_a=("planted_a",), silent=-1.0, heard=0.0, margin=0.0)
RHO = Contamination(0.1, 0.05, 0.2)


class Planted(Proxy):
    """The mean score, so that a test says what wins; undefined where a source score is 0."""

    name: ClassVar[str] = "planted"
    stage: ClassVar[Literal["A", "B"]] = "B"

    def __call__(self, evidence: ScoreEvidence) -> float:
        if evidence.source_val[0] == 0:
            raise UndefinedScore("a source score is 0")
        return float(evidence.target_sel.mean())


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    PROXIES.names()
    monkeypatch.setitem(PROXIES._entries, "planted", Planted)


def flat(k: int = 2, **values: Any) -> dict[str, Any]:
    start = {"alignment": "identity", "clusterer": "kmeans", "k": k, "score": "knn"}
    return Configuration.parse({**start, **values}).as_dict()


def record(
    config: dict[str, Any],
    level: float = 1.0,
    noise: float = 0.01,
    seed: int = 0,
    trust: float | None = None,
    setting: str = "s1",
    **values: Any,
) -> UnitRecord:
    """A finished unit whose planted proxy is about ``level``."""
    draws = generator("record", canonical_json(config), seed)
    around = (level * np.exp(noise * draws.normal(size=M))).astype(np.float32)
    start: dict[str, Any] = {
        "state": "done",
        "stage_a": {"planted_a": level if trust is None else trust, "compactness": -1.0 / level},
        "diagnostics": {
            "effective_rank": 5.0, "effective_rank_initial": 5.0,
            "score_variation": 1.0, "score_variation_initial": 1.0,
        },
        "trusted_fit": np.arange(10) < 6,
        "trusted_sel": np.arange(M) < 15,
        "source_val": np.ones(6, dtype=np.float32),
        "target_sel": around,
        "pseudo": 2 * around,
        "test": around,
    }  # fmt: skip
    return UnitRecord(
        key=stable_hash([setting, config, seed]), setting=setting, dataset="digits", source="typeset",
        target="mnist", normal_class="3", contamination=0.1, split_seed=0, seed=seed, config=config,
        **{**start, **values},
    )  # fmt: skip


def failed(config: dict[str, Any], seed: int = 0, setting: str = "s1") -> UnitRecord:
    return UnitRecord(
        key=stable_hash([setting, config, seed]), setting=setting, state="failed", dataset="digits",
        source="typeset", target="mnist", normal_class="3", contamination=0.1, split_seed=0, seed=seed,
        config=config, error="Traceback",
    )  # fmt: skip


DEFAULT, LEFT, RIGHT = flat(2), flat(3), flat(4)


def decide(
    *records: UnitRecord,
    default: dict[str, Any] = DEFAULT,
    rho: Contamination = RHO,
    mixing: float = 0.0,
    **constants: Any,
) -> dict[str, Any]:
    chooser = Chooser(**{**vars(CHOOSER), **constants})
    choice = choose(gather_candidates(list(records), chooser), default, chooser, rho, mixing)
    assert json.loads(json.dumps(choice, allow_nan=False)) == choice
    return choice


def test_a_clear_winner_replaces_the_default() -> None:
    records = [record(DEFAULT, 1), record(LEFT, 3), record(RIGHT, 2)]
    choice = decide(*records)
    assert choice["chosen"] == records[1].key and choice["config"] == LEFT
    assert not choice["kept_default"] and choice["default"] == records[0].key
    assert choice["win_share"] == 1
    assert [entry["key"] for entry in choice["ranking"]] == [records[i].key for i in (1, 2, 0)]
    values = [entry["value"] - entry["worth"] for entry in choice["ranking"]]
    assert values == pytest.approx([10, 5, 0], abs=1e-3)
    assert choice["ensemble"][0] == records[1].key


def test_the_default_is_kept_where_it_leads() -> None:
    records = [record(DEFAULT, 3), record(LEFT, 2), record(RIGHT, 1)]
    choice = decide(*records)
    assert choice["chosen"] == records[0].key and choice["kept_default"]
    assert choice["win_share"] == 1


def test_the_default_is_kept_where_the_lead_is_chance() -> None:
    records = [record(DEFAULT, 1, noise=1.0), record(LEFT, 1.03, noise=1.0), record(RIGHT, 0.2, noise=1.0)]
    records.sort(key=lambda r: r.target_sel.mean())
    low, second, leader = records
    choice = decide(*records, default=second.config)
    assert choice["kept_default"] and choice["chosen"] == second.key
    assert choice["ranking"][0]["key"] == leader.key and choice["win_share"] < 0.8
    assert "default is kept" in choice["reason"]
    assert low.key != choice["chosen"]


def test_a_lead_below_the_margin_is_none() -> None:
    records = [record(DEFAULT, 1), record(LEFT, 3), record(RIGHT, 2)]
    assert decide(*records, margin=9.9)["chosen"] == records[1].key
    choice = decide(*records, margin=10.0)
    assert choice["kept_default"] and choice["win_share"] == 0
    assert "leads it by 10 points in only 0%" in choice["reason"]


def test_the_evidence_has_no_say_where_hardly_an_image_looks_anomalous() -> None:
    records = [record(DEFAULT, 1), record(LEFT, 3), record(RIGHT, 2)]

    def added(estimate: float) -> list[float]:
        rho = Contamination(estimate, 0.0, 0.5)
        choice = decide(*records, rho=rho, silent=0.1, heard=0.3)
        return [entry["value"] - entry["worth"] for entry in choice["ranking"]]

    assert added(0.0) == added(0.1) == [0, 0, 0]
    assert added(0.15) == pytest.approx([2.5, 1.25, 0], abs=1e-3)
    assert added(0.3) == added(0.5) == pytest.approx([10, 5, 0], abs=1e-3)
    told = decide(*records, rho=Contamination(0.05, 0.0, 0.1), silent=0.1, heard=0.3)["explanation"]
    assert any("the evidence on these images has no say" in sentence for sentence in told)


def test_worth_decides_where_the_evidence_is_silent() -> None:
    """The record's trusted share is 0.6: of two scores the one that was worth more on digits wins."""
    knn, centre = flat(2), flat(2, score="source_centre", alignment="positive", finetune="head")
    records = [record(centre, 1), record(knn, 1)]
    choice = decide(*records, default=centre, evidence=())
    expected = {r.key: worth(r.config, 0.6, RHO.estimate, 0.0) for r in records}
    assert {e["key"]: e["value"] for e in choice["ranking"]} == pytest.approx(expected, abs=1e-4)
    assert choice["chosen"] == max(expected, key=lambda key: expected[key])


def test_the_choice_follows_the_shift() -> None:
    alone = Configuration.parse(
        {"supervision": "source_only", "alignment": "identity", "score": "knn"}
    ).as_dict()
    nothing = np.empty(0, dtype=bool)
    records = [record(flat(2), 1), record(alone, 1, trusted_fit=nothing, trusted_sel=nothing)]
    apart, one = (decide(*records, mixing=mixing, evidence=()) for mixing in (0.0, 0.45))
    assert apart["config"] == flat(2) and one["config"] == alone
    assert any("45% are source images" in sentence for sentence in one["explanation"])


def test_the_choice_follows_the_contamination() -> None:
    few, most = flat(2), flat(3)
    records = [
        record(few, 1, trusted_fit=np.arange(20) < 10),
        record(most, 1, trusted_fit=np.arange(20) < 19),
    ]
    clean, dirty = Contamination(0.02, 0, 0.1), Contamination(0.45, 0.3, 0.5)
    assert decide(*records, default=few, rho=clean, evidence=())["config"] == most
    assert decide(*records, default=few, rho=dirty, evidence=())["config"] == few


def test_trust_is_how_far_the_highest_scores_stand_out() -> None:
    flat_scores, tail = np.linspace(1, 2, M), np.r_[np.linspace(1, 2, M - 3), [50, 60, 70]]
    doubt = decide(record(DEFAULT, 1, target_sel=flat_scores.astype(np.float32)))
    sure = decide(record(DEFAULT, 1, target_sel=tail.astype(np.float32)))
    assert doubt["trust"] == "low" and sure["trust"] == "high"
    assert "low" in doubt["explanation"][-1] and "high" in sure["explanation"][-1]
    logs = np.log(tail.astype(np.float32).astype(float))
    low, middle, high = (float(np.quantile(logs, q)) for q in (0.05, 0.5, 0.95))
    assert sure["confidence"] == pytest.approx((high - middle) / (middle - low), rel=1e-4)
    assert score_tail([record(DEFAULT, 1, target_sel=np.ones(M, dtype=np.float32))]) == 0
    squared = record(DEFAULT, 1, target_sel=np.square(tail).astype(np.float32))
    assert score_tail([squared]) == pytest.approx(sure["confidence"], rel=1e-3), "a distance or its square"


def test_the_explanation_names_what_decided() -> None:
    choice = decide(record(DEFAULT, 1), record(LEFT, 3), record(RIGHT, 2))
    text = "\n".join(choice["explanation"])
    for words in ("About 10% ", "(5% to 20%)", "K-means K = 3", "Runner-up: K-means K = 4", "Trust: "):
        assert words in text
    assert choice["contamination"] == {"estimate": 0.1, "low": 0.05, "high": 0.2}


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ("effective_rank", {"diagnostics": {"effective_rank": 1.0, "effective_rank_initial": 5.0,
                                            "score_variation": 1.0, "score_variation_initial": 1.0}}),
        ("score_variation", {"diagnostics": {"effective_rank": 5.0, "effective_rank_initial": 5.0,
                                             "score_variation": 0.001, "score_variation_initial": 1.0}}),
        ("trusted_share", {"trusted_fit": np.arange(20) < 1}),
    ],
)  # fmt: skip
def test_collapsed_units_are_out(gate: str, changes: dict[str, Any]) -> None:
    records = [record(DEFAULT, 1), record(LEFT, 9, **changes), record(RIGHT, 2)]
    choice = decide(*records)
    assert choice["chosen"] == records[2].key
    entries = {entry["key"]: entry["gates"] for entry in choice["ranking"]}
    assert entries == {records[0].key: [], records[1].key: [gate], records[2].key: []}
    assert records[1].key not in choice["ensemble"]


def test_one_collapsed_seed_is_enough() -> None:
    collapsed = {"trusted_fit": np.arange(20) < 1}
    records = [record(c, lv, seed=s) for c, lv in ((DEFAULT, 1), (RIGHT, 2)) for s in (0, 1)]
    records += [record(LEFT, 9, seed=0), record(LEFT, 9, seed=1, **collapsed)]
    assert decide(*records)["config"] == RIGHT


def test_where_everything_collapsed_the_default_stays_and_says_so() -> None:
    collapsed = {"trusted_fit": np.arange(20) < 1}
    choice = decide(record(DEFAULT, 1, **collapsed), record(LEFT, 3, **collapsed))
    assert choice["kept_default"] and choice["win_share"] == 0 and choice["ensemble"] == []
    assert "nothing supports" in choice["reason"] and choice["trust"] == "low"


def test_failed_units_are_never_chosen() -> None:
    choice = decide(record(DEFAULT, 1), failed(LEFT), record(RIGHT, 2))
    assert choice["config"] == RIGHT and len(choice["ranking"]) == 2


def test_a_failed_default_leaves_the_leader() -> None:
    choice = decide(failed(DEFAULT), record(LEFT, 1), record(RIGHT, 2))
    assert choice["default"] is None and choice["config"] == RIGHT and not choice["kept_default"]


@given(st.permutations(range(5)))
@settings(max_examples=20)
def test_labels_never_take_part(order: list[int]) -> None:
    oracle = flat(alignment="mmd", supervision="oracle")
    few = [record(DEFAULT, 1), record(LEFT, 3), record(RIGHT, 2)]
    many = [*few, record(oracle, 99), record(flat(alignment="positive", supervision="few_shot"), 50)]
    with_planted = decide(*[many[i] for i in order])
    assert oracle not in [with_planted["config"]]
    assert with_planted == {**decide(*few), "ranking": with_planted["ranking"]}
    assert {e["key"] for e in with_planted["ranking"]} == {r.key for r in few}


def test_test_scores_play_no_part() -> None:
    records = [record(DEFAULT, 1), record(LEFT, 3), record(RIGHT, 2)]
    other = [record(r.config, lv, test=r.test[::-1] * 100) for r, lv in zip(records, (1, 3, 2), strict=True)]
    assert decide(*records) == decide(*other)


def test_an_undefined_proxy_does_not_win() -> None:
    zero = np.zeros(6, dtype=np.float32)
    records = [record(DEFAULT, 1), record(LEFT, 9, source_val=zero), record(RIGHT, 2)]
    choice = decide(*records)
    assert choice["chosen"] == records[2].key
    entry = next(e for e in choice["ranking"] if e["key"] == records[1].key)
    assert entry["value"] - entry["worth"] == pytest.approx(5, abs=1e-3)
    assert "planted" not in entry["proxies"]
    lost = [record(DEFAULT, 1, source_val=zero), record(LEFT, 2, source_val=zero)]
    assert decide(*lost)["kept_default"], "where nothing is defined nothing is beaten"


def test_stage_a_orders_the_trusted_sets() -> None:
    records = [record(flat(k), 1, trust=trust) for k, trust in ((2, 0.1), (3, 0.2), (4, 0.3), (5, 0.4))]
    choice = decide(*records)
    assert [entry["config"]["k"] for entry in choice["stage_a"]] == [5, 4, 3, 2]
    assert [entry["rank"] for entry in choice["stage_a"]] == [0, 0.3333, 0.6667, 1]


def test_evidence_of_both_stages_adds_up() -> None:
    records = [record(DEFAULT, 1, trust=0.3), record(LEFT, 3, trust=0.1), record(RIGHT, 2, trust=0.2)]
    choice = decide(*records, evidence=(("planted", 2.0), ("planted_a", 6.0)))
    added = {entry["key"]: entry["value"] - entry["worth"] for entry in choice["ranking"]}
    assert added == pytest.approx(dict(zip([r.key for r in records], [6, 2, 4], strict=True)), abs=1e-3)
    assert choice["config"] == DEFAULT


def test_source_only_needs_no_trusted_set() -> None:
    source_only = flat(alignment="none", score="source_centre")
    nothing: dict[str, Any] = {
        "stage_a": {},
        "trusted_fit": np.empty(0, dtype=bool),
        "trusted_sel": np.empty(0, dtype=bool),
    }
    choice = decide(record(DEFAULT, 1), record(source_only, 5, **nothing), evidence=(("planted", 30.0),))
    assert choice["config"] == source_only


def test_configurations_that_share_a_trusted_set_are_one_row_of_stage_a() -> None:
    records = [record(DEFAULT, 1, trust=1), record(flat(2, score="mahalanobis"), 2, trust=1)]
    assert len(decide(*records)["stage_a"]) == 1


def test_seeds_are_averaged_and_named_by_the_first() -> None:
    records = [record(c, lv + s, seed=s) for c, lv in ((DEFAULT, 1), (LEFT, 5)) for s in (2, 0, 1)]
    choice = decide(*records)
    assert choice["chosen"] == next(r.key for r in records if r.config == LEFT and r.seed == 0)
    assert len(choice["ranking"]) == 2
    value = choice["ranking"][0]["proxies"]["planted"]
    assert value == pytest.approx(
        np.mean([r.target_sel.mean() for r in records if r.config == LEFT]), rel=1e-4
    )


def test_the_chosen_entry_is_the_recorded_row() -> None:
    records = [record(DEFAULT, 1), record(LEFT, 3)]
    choice = decide(*records)
    row = next(r for r in records if r.key == choice["chosen"])
    assert choice["config"] == row.config and choice["task"] == row.task
    assert choice["setting"] == row.setting
    keys = {r.key for r in records}
    assert {choice["chosen"], choice["default"], choice["compactness_pick"], *choice["ensemble"]} <= keys
    assert choice["compactness_pick"] == records[1].key


def test_a_single_candidate() -> None:
    choice = decide(record(DEFAULT, 1))
    assert choice["kept_default"] and len(choice["ranking"]) == 1


@given(order=st.permutations(range(8)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
def test_order_of_the_records_does_not_matter(order: list[int]) -> None:
    """Text for text, since selection.json is compared between runs."""
    levels = zip((1, 1.3, 0.7, 2), range(2, 6), strict=True)
    records = [record(flat(k), level, noise=0.5, seed=s) for level, k in levels for s in (0, 1)]
    texts = {
        json.dumps(
            choose(gather_candidates([records[i] for i in positions], CHOOSER), DEFAULT, CHOOSER, RHO, 0.0),
            sort_keys=True,
        )
        for positions in (range(8), order)
    }
    assert len(texts) == 1


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(-5, 5)), min_size=1, max_size=7),
)
def test_mean_ranks(values: list[dict[str, float]]) -> None:
    ranks = mean_ranks(values, ("a", "b"))
    assert ranks.shape == (len(values),) and ((ranks >= 0) & (ranks <= 1)).all()
    for i, left in enumerate(values):
        for j, right in enumerate(values):
            if all(name in left and name in right and left[name] > right[name] for name in "ab"):
                assert ranks[i] < ranks[j]
    for i, value in enumerate(values):
        if not set(value) & {"a", "b"}:
            assert ranks[i] == 0.5


def test_mean_ranks_by_hand() -> None:
    values = [{"a": 3.0}, {"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 4.0}, {"a": 2.0}]
    assert mean_ranks(values, ("a",)).tolist() == [0, 1, 0.5, 0.5]
    assert mean_ranks(values, ("a", "b")).tolist() == [0.25, 1, 0.25, 0.5]
    assert mean_ranks([{"a": 1.0}], ("a",)).tolist() == [0.5]


def test_candidates_are_finished_and_unlabelled() -> None:
    oracle = flat(alignment="mmd", supervision="oracle")
    found = gather_candidates(
        [record(DEFAULT), failed(LEFT), record(oracle), failed(DEFAULT, seed=1)], CHOOSER
    )
    assert [candidate.config for candidate in found] == [DEFAULT]


def write(folder: Path, records: list[UnitRecord]) -> Path:
    ledger = Ledger(Storage(str(folder)))
    ledger.open()
    for entry in records:
        ledger.write(entry)
    ledger.compact([[entry.key for entry in records]], folder / "units.parquet")
    return folder


def several() -> list[UnitRecord]:
    return [
        record(config, level, noise=0.3, setting=setting)
        for setting in ("s1", "s2")
        for config, level in ((DEFAULT, 1.0), (LEFT, 3.0), (RIGHT, 2.0))
    ]


def test_selection_on_disk(tmp_path: Path) -> None:
    records = [*several(), failed(DEFAULT, setting="s3")]
    path = select_folder(write(tmp_path, records), "demo", DEFAULT)
    assert path == tmp_path / "selection.json"

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} in selection.json")

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content["sweep"] == "demo" and content["default"] == DEFAULT and content["schema"] == 1
    assert [choice["setting"] for choice in content["choices"]] == ["s1", "s2"]
    rows = {entry.key: entry for entry in records}
    for choice in content["choices"]:
        assert rows[choice["chosen"]].config == choice["config"]
        assert rows[choice["chosen"]].setting == choice["setting"]
        assert isinstance(choice["reason"], str) and choice["trust"] in ("high", "medium", "low")
        for entry in choice["ranking"]:
            assert all(np.isfinite(value) for value in entry["proxies"].values())
    first = path.read_bytes()
    assert select_folder(tmp_path, "demo", DEFAULT).read_bytes() == first


def test_selection_does_not_depend_on_the_order_within_a_setting(tmp_path: Path) -> None:
    records = several()
    first = select_folder(write(tmp_path / "a", records), "demo", DEFAULT).read_bytes()
    shuffler = random.Random(1)
    for attempt in range(3):
        by_setting = [records[:3], records[3:]]
        for part in by_setting:
            shuffler.shuffle(part)
        folder = write(tmp_path / f"b{attempt}", by_setting[0] + by_setting[1])
        assert select_folder(folder, "demo", DEFAULT).read_bytes() == first


def test_where_everything_failed_there_is_nothing_to_choose(tmp_path: Path) -> None:
    write(tmp_path, [failed(DEFAULT), failed(LEFT)])
    with pytest.raises(TwofoldError, match="nothing to choose from"):
        select_folder(tmp_path, "demo", DEFAULT)
    assert not (tmp_path / "selection.json").exists()
