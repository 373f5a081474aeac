"""Several contrasts at once: p-values corrected so that the chance of any false claim stays at the level."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from toolkit.statistics.arrays import Vector


def holm(p_values: ArrayLike) -> Vector:
    """Holm's step-down correction of m p-values [m], returned [m] in the order given.

    The j-th smallest is multiplied by m - j + 1, made monotone by a running maximum, and capped at 1. Holds whatever
    the dependence between the tests. An empty family gives an empty array.
    Source: Holm 1979. Raises ValueError unless one-dimensional with every p-value in [0, 1].
    """
    raw = np.asarray(p_values, dtype=np.float64)
    if raw.ndim != 1:
        raise ValueError(f"p_values: expected a list of numbers, found shape {raw.shape}")
    if not ((raw >= 0) & (raw <= 1)).all():
        raise ValueError(f"p_values: expected numbers in [0, 1], found {raw[~((raw >= 0) & (raw <= 1))][0]}")
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(1.0, stepped)
    return corrected
