"""Proxies of the records of a sweep, against the choice and against the proxies themselves."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy.stats import kendalltau

from orchestrator.ledger import SCHEMA, UnitRecord
from orchestrator.objective import record_objective
from orchestrator.proxies.base import PROXIES
from orchestrator.rescore import rescore
from orchestrator.select import select_folder
from trainables.configuration import Configuration
from trainables.errors import TwofoldError, UnknownName
from trainables.seeding import canonical_json, generator, stable_hash

M = 30
STAGE_A = {"compactness": -0.5, "dominant_share": 0.6}


def flat(**values: Any) -> dict[str, Any]:
    start = {"alignment": "identity", "clusterer": "kmeans", "k": 2, "score": "knn"}
    return Configuration.parse({**start, **values}).as_dict()


def record(config: dict[str, Any], setting: str = "s1", seed: int = 0, **values: Any) -> UnitRecord:
    draws = generator("rescore", canonical_json(config), setting, seed)
    start: dict[str, Any] = {
        "state": "done",
        "stage_a": STAGE_A,
        "diagnostics": dict.fromkeys(
            ("effective_rank", "effective_rank_initial", "score_variation", "score_variation_initial"), 1.0
        ),
        "trusted_fit": np.arange(10) < 6,
        "trusted_sel": np.arange(M) < 15,
        "source_val": np.exp(draws.normal(size=9)).astype(np.float32),
        "target_sel": np.exp(draws.normal(size=M)).astype(np.float32),
        "pseudo": np.exp(1 + draws.normal(size=M)).astype(np.float32),
    }
    return UnitRecord(
        key=stable_hash([setting, config, seed]), setting=setting, dataset="digits", source="typeset",
        target="mnist", normal_class="3", contamination=0.1, split_seed=0, seed=seed, config=config,
        **{**start, **values},
    )  # fmt: skip


def write(folder: Path, *records: UnitRecord) -> Path:
    rows = [entry.to_row() for entry in records]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "units.parquet")
    return folder


def rescored(folder: Path, *names: str) -> dict[tuple[str, str], float]:
    """(key, proxy) -> value, as ``proxies.parquet`` holds them."""
    path = rescore(folder, names, Console(file=io.StringIO()))
    assert path == folder / "proxies.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        assert row["stage"] == PROXIES.get(row["proxy"]).stage and np.isfinite(row["value"])
    found = {(row["key"], row["proxy"]): row["value"] for row in rows}
    assert len(found) == len(rows), "one row per unit and proxy"
    return found


def test_values_are_those_of_the_choice(tmp_path: Path) -> None:
    records = [record(flat(k=k), setting) for setting in ("s1", "s2") for k in (2, 3, 4)]
    found = rescored(write(tmp_path, *records))
    selection = json.loads(select_folder(tmp_path, "made up", flat(k=2)).read_text())
    for choice in selection["choices"]:
        for entry in choice["ranking"]:
            ours = {proxy: value for (key, proxy), value in found.items() if key == entry["key"]}
            assert ours == pytest.approx(entry["proxies"] | STAGE_A)


def test_consensus_counts_the_peers_of_one_setting_and_seed_that_used_no_label(tmp_path: Path) -> None:
    configs = [flat(k=2), flat(k=3), flat(k=4)]
    records = [record(config, seed=seed) for config in configs for seed in (0, 1)]
    labelled = {"supervision": "oracle", "alignment": "identity", "score": "knn"}
    oracle = record(Configuration.parse(labelled).as_dict())
    alone = record(flat(), "s2")
    constant = record(flat(k=5), target_sel=np.ones(M, dtype=np.float32))
    found = rescored(write(tmp_path, *records, oracle, alone), "consensus")
    assert {key for key, _ in found} == {entry.key for entry in records}
    for one in records:
        peers = [r for r in records if r.seed == one.seed and r is not one]
        taus = [kendalltau(one.target_sel, peer.target_sel).statistic for peer in peers]
        assert found[one.key, "consensus"] == pytest.approx(np.mean(taus))
    found = rescored(write(tmp_path, *records, constant), "consensus")
    assert (constant.key, "consensus") not in found


def test_an_undefined_proxy_and_an_unfinished_unit_have_no_row(tmp_path: Path) -> None:
    whole, without = record(flat(k=2)), record(flat(k=3), source_val=np.zeros(9), stage_a={})
    failed = record(flat(k=4), state="failed", target_sel=np.empty(0, dtype=np.float32))
    found = rescored(write(tmp_path, whole, without, failed))
    assert failed.key not in {key for key, _ in found}
    missing = {proxy for key, proxy in found if key == whole.key} - {
        proxy for key, proxy in found if key == without.key
    }
    assert missing == {"bridge", *STAGE_A}


def test_named_proxies_alone(tmp_path: Path) -> None:
    unit = record(flat())
    found = rescored(write(tmp_path, unit), "bridge", "compactness", "bridge")
    assert found == {
        (unit.key, "bridge"): record_objective("bridge", unit),
        (unit.key, "compactness"): STAGE_A["compactness"],
    }


def test_the_table_says_for_how_many_units(tmp_path: Path) -> None:
    text = io.StringIO()
    units = [record(flat(k=k), stage_a={"compactness": -k} if k > 2 else {}) for k in (2, 3, 4, 5)]
    rescore(write(tmp_path, *units), ["compactness", "dominant_gap"], Console(file=text, width=100))
    lines = [line.split() for line in text.getvalue().replace("│", " ").splitlines()]
    assert ["compactness", "A", "3", "-4"] in lines and ["dominant", "gap", "A", "0", "-"] in lines
    assert "4 finished units" in text.getvalue() and "proxies.parquet" in text.getvalue()


def test_what_cannot_be_rescored_is_refused_and_the_old_table_stays(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match=r"no .*units\.parquet yet"):
        rescored(tmp_path)
    before = rescored(write(tmp_path, record(flat())))
    write(tmp_path, record(flat(), state="failed"))
    with pytest.raises(TwofoldError, match=r"no unit of .* finished"):
        rescored(tmp_path)
    with pytest.raises(UnknownName, match="Did you mean 'tail_separation'"):
        rescored(tmp_path, "tail_seperation")
    assert len(pq.read_table(tmp_path / "proxies.parquet")) == len(before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["proxies.parquet", "units.parquet"]
