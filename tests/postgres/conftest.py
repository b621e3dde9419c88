"""A PostgreSQL server for these tests, which `make test` leaves out: `make test-postgres` runs them.

They need the server binaries of PostgreSQL (Debian: `apt install postgresql`).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))  # harness.py

from tests.postgres.server import Cluster, binaries_here


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    binaries = binaries_here()
    if binaries is None:
        pytest.skip("no PostgreSQL server here: initdb is neither in /usr/lib/postgresql nor on PATH")
    pytest.importorskip("psycopg", reason="psycopg is missing: pip install 'twofold[postgres]'")
    # Not below pytest's folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="twofold-postgres-") as folder:
        cluster = Cluster(binaries, Path(folder))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")
