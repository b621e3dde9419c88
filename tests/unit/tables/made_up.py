"""Made-up results, one per shape that a table can have."""

from __future__ import annotations

from orchestrator.tables.result import Cell, Claim, Column, PaperFigures, Row, TableResult

ROWS = {
    "none": "no alignment",
    "coral": "CORAL",
    "grl": "gradient reversal",
    "mmd": "MMD",
    "positive": "pull to the centre",
    "contrastive": "contrastive (the paper)",
}
PAIRS = ("typeset->mnist", "typeset->optdigits")
PROVENANCE = {
    "encoder": "efficientnet_lite0",
    "backbone": "efficientnet_lite0",
    "seeds": [0, 1, 2],
    "split_seeds": [0],
    "epochs": 6,
    "hardware": {"gpus": ["NVIDIA H100"], "cpus": 16},
    "commit": "cef5376",
}


def cell(mean, half=2.0, units=30, planned=30, class_std=4.2, seed_std=0.6):
    return Cell(mean, mean - half, mean + half, class_std, seed_std, units, planned)


def column(name):
    return Column(name, name.replace("->", "→"))


def make(name="alignments", rows=None, columns=PAIRS, groups=("source_centre", "knn"), **parts):
    """A table whose cells rise row by row; the keywords replace fields."""
    rows = ROWS if rows is None else rows
    found = [Row(f"{row}.{g}" if g else row, label, g) for g in groups for row, label in rows.items()]
    columns = tuple(column(entry) for entry in columns)
    cells = {
        (row.name, entry.name): cell(61.0 + 2.37 * index + 3 * (j % 4), half=1.5 + 0.2 * j)
        for index, row in enumerate(found)
        for j, entry in enumerate(columns)
    }
    fields = {
        "title": "How the trusted target set is pulled onto the source",
        "question": "Does contrastive alignment beat the classical ones, with all else equal?",
        "data": "digits",
        "axis": None,
        "rows": tuple(found),
        "columns": columns,
        "cells": cells,
        "paper": (),
        "claims": (),
        "missing": (),
        "provenance": PROVENANCE,
    }
    return TableResult(name=name, **{**fields, **parts})


def everything():
    """Two pairs, two scores, everything that can be missing, and the paper's figures beside and elsewhere."""
    table = make(
        paper=(
            PaperFigures("W→A", "office_31", {"grl": 83.49, "mmd": 83.92, "contrastive": 87.72}, PAIRS[0]),
            PaperFigures("CAD→real", "visda", {"grl": 71.84, "mmd": 73.12, "contrastive": 75.54}, None),
        ),
        claims=(
            Claim("Contrastive alignment beats MMD", "contrastive", "mmd", 2.34, 0.4, 4.1, "holds"),
            Claim("MMD beats CORAL", "mmd", "coral", -3.14, -5, -1.04, "does not hold"),
            Claim("CORAL beats no alignment", "coral", "none", 0.04, -1.2, 1.3, "not clear"),
            Claim("IRAD beats ILDR on few shots", "irad", "ildr", None, None, None, "not measured"),
        ),
        missing=(
            "visda CAD→real: put VisDA-2017 under data.folder and run with --data visda",
            "IRAD: not built; its encoders, generator and discriminator would have to be written",
        ),
    )
    cells = dict(table.cells)
    del cells["coral.source_centre", PAIRS[1]]
    cells["mmd.knn", PAIRS[0]] = cell(75.0, units=21)
    return make(cells=cells, paper=table.paper, claims=table.claims, missing=table.missing)
