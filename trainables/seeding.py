"""Named randomness and stable hashes: no draw without a generator seeded by what it is for."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal text. Non-finite floats raise ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def stable_hash(value: Any, digits: int = 16) -> str:
    """Hexadecimal BLAKE2 hash of the canonical JSON of ``value``, the same on every machine and run."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=digits // 2).hexdigest()


def stable_seed(*purpose: object) -> int:
    """A 63-bit seed from what the draw is for, e.g. ``stable_seed("kmeans", setting.key, 5)``."""
    return int(stable_hash([str(part) for part in purpose]), 16) >> 1


def generator(*purpose: object) -> np.random.Generator:
    """A NumPy generator seeded by its purpose."""
    return np.random.default_rng(stable_seed(*purpose))


def unit_interval(*purpose: object) -> float:
    """A number in [0, 1) fixed by its purpose: used to split by a seeded hash of an image id."""
    return int(stable_hash([str(part) for part in purpose], 12), 16) / 16**12
