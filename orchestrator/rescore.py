"""``twofold rescore``: the proxies of every finished unit, from the records of a sweep, without training.

Setting by setting, so that the memory does not grow with the sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from orchestrator.contamination import mean_contamination
from orchestrator.ledger import UnitRecord, read_by_setting
from orchestrator.objective import objective_value, score_evidence
from orchestrator.proxies.base import PROXIES
from orchestrator.report.words import proxy_words
from orchestrator.select import CONSENSUS, Chooser, agreements, gather_candidates
from trainables.cache import write_atomically
from trainables.errors import TwofoldError

SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "setting": pa.string(),
        "proxy": pa.string(),
        "stage": pa.string(),
        "value": pa.float64(),
    }
)


@dataclass(frozen=True)
class Value:
    """One proxy of one unit, larger = better: a row of ``proxies.parquet``."""

    key: str
    setting: str
    proxy: str
    stage: str
    value: float


def rescore(folder: Path, names: Sequence[str], console: Console) -> Path:
    """Write ``proxies.parquet`` into a sweep's folder, print a table of what is in it, and return its path.

    A row per finished unit and defined proxy. Stage B is computed again; stage A needs the features, so its
    values are those of the records.

    Args:
        folder: of the sweep.
        names: proxies to write, of both stages; none = all.
        console: where the table is printed.

    Raises:
        UnknownName: nobody knows a proxy of that name.
        TwofoldError: the sweep has no ``units.parquet`` yet, or no unit finished.
    """
    wanted = {name: PROXIES.get(name).stage for name in names or PROXIES.names()}
    source, path = folder / "units.parquet", folder / "proxies.parquet"
    if not source.exists():
        raise TwofoldError(f"there is no {source} yet; let `twofold sweep` come to its end")
    values: dict[str, list[float]] = {name: [] for name in wanted}
    finished = 0

    def fill(temporary: Path) -> None:
        nonlocal finished
        with pq.ParquetWriter(temporary, SCHEMA) as writer, threadpool_limits(1):
            for table in read_by_setting(source):
                records = [record for record in UnitRecord.from_table(table) if record.state == "done"]
                finished += len(records)
                rows = setting_values(records, wanted)
                writer.write_table(pa.Table.from_pylist([vars(row) for row in rows], schema=SCHEMA))
                for row in rows:
                    values[row.proxy].append(row.value)
        if not finished:
            raise TwofoldError(f"no unit of {folder} finished, so there is nothing to compute a proxy of")

    write_atomically(path, fill)
    console.print(_table(values, wanted, finished))
    console.print(f"Proxies: {path}", highlight=False)
    return path


def setting_values(records: Sequence[UnitRecord], wanted: dict[str, str]) -> list[Value]:
    """The defined proxies of the finished units of one setting, unit by unit.

    Args:
        records: all finished units of the setting, which are each other's peers.
        wanted: proxy -> its stage, A or B.
    """
    agreement = agreements(gather_candidates(records, Chooser())) if CONSENSUS in wanted else {}
    rho = mean_contamination(record.diagnostics for record in records).estimate
    rows = []
    for record in records:
        for name, stage in wanted.items():
            if stage == "A":
                value = record.stage_a.get(name)
            elif name == CONSENSUS:
                value = agreement.get(record.key)
            else:
                evidence = score_evidence(record, np.arange(len(record.target_sel)), rho)
                value = objective_value(name, evidence)
            if value is not None:
                rows.append(Value(record.key, record.setting, name, stage, value))
    return rows


def _table(values: dict[str, list[float]], wanted: dict[str, str], finished: int) -> Table:
    table = Table(title=f"Proxies of {finished:,} finished units")
    table.add_column("proxy")
    table.add_column("stage")
    table.add_column("defined for", justify="right")
    table.add_column("median", justify="right")
    for name, found in values.items():
        median = f"{np.median(found):.3g}" if found else "-"
        table.add_row(proxy_words(name), wanted[name], f"{len(found):,}", median)
    return table
