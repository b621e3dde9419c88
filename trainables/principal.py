"""Principal coordinates: few numbers per row that keep the inner products of all rows as well as can be."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh


def principal_coordinates(rows: np.ndarray, dimensions: int) -> np.ndarray:
    """(n, min(n, d, dimensions)) float64 coordinates of rows (n, d) in their leading principal directions.

    The directions are those of the rows as they are, not centred, so that the inner products and distances
    between rows are the ones best approximated in that many dimensions. From the smaller Gram matrix.
    """
    rows = np.asarray(rows, dtype=float)
    wide = rows.shape[0] <= rows.shape[1]
    gram = rows @ rows.T if wide else rows.T @ rows
    kept = min(len(gram), dimensions)
    values, vectors = eigh(gram, subset_by_index=(len(gram) - kept, len(gram) - 1))
    coordinates = vectors * np.sqrt(np.maximum(values, 0)) if wide else rows @ vectors
    return np.asarray(coordinates[:, ::-1])
