"""Checked arrays in, cluster totals out: what every statistic of this package starts from.

Shapes: n examples, G clusters, k statistics per example.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]
Codes = NDArray[np.intp]
Clusters = Iterable[Hashable]


def finite_vector(values: ArrayLike, name: str) -> Vector:
    """`values` as float64 of shape [n]. Raises ValueError when empty, not one-dimensional, or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: expected a non-empty list of numbers, found shape {array.shape}")
    return _all_finite(array, name)


def finite_table(values: ArrayLike, name: str) -> Vector:
    """`values` as float64 of shape [n, k]; [n] is read as [n, 1]. Raises ValueError when empty or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name}: expected a non-empty table [examples, statistics], found shape {array.shape}")
    return _all_finite(array, name)


def _all_finite(array: Vector, name: str) -> Vector:
    bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
    if bad.size:
        raise ValueError(f"{name}: {bad.size} of {len(array)} rows are not finite, the first at position {bad[0]}")
    # Adding zero turns -0.0 into 0.0, so that equal rows have equal bytes (see `canonical_order`).
    return array + 0.0


def check_fraction(value: float, name: str) -> None:
    """Raises ValueError unless 0 < value < 1."""
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name}: expected a number strictly between 0 and 1, found {value!r}")


def check_draws(draws: int, least: int) -> None:
    """Raises ValueError when fewer than `least` random draws are asked for."""
    if draws < least:
        raise ValueError(f"draws: expected at least {least}, found {draws!r}")


def cluster_codes(clusters: Clusters | None, n: int) -> Codes:
    """Number the clusters 0..G-1, shape [n]. A label that is None or NaN is a cluster of its own.

    Raises ValueError when there is not exactly one label an example.
    """
    if clusters is None:
        return np.arange(n)
    labels = list(clusters)
    if len(labels) != n:
        raise ValueError(f"clusters: expected one label for each of the {n} examples, found {len(labels)}")
    known: dict[Hashable, int] = {}
    for position, label in enumerate(labels):
        if label is None or label != label:
            labels[position] = label = ("alone", position, object())
        known.setdefault(label, len(known))
    return np.array([known[label] for label in labels], dtype=np.intp)


def cluster_totals(values: Vector, codes: Codes) -> Vector:
    """Sum the rows of each cluster: [n, k] -> [G, k], or [n] -> [G].

    Rows are added in an order that depends on their content only, so the same examples in another order give the
    same bits.
    """
    table = values[:, None] if values.ndim == 1 else values
    order = canonical_order(table)
    order = order[np.argsort(codes[order], kind="stable")]
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    totals: Vector = np.add.reduceat(table[order], starts, axis=0) + 0.0
    return totals[:, 0] if values.ndim == 1 else totals


def canonical_order(table: Vector) -> Codes:
    """Indices that sort the rows of a [n, k] table by their bytes: an order no relabelling or shuffling changes."""
    rows = np.ascontiguousarray(table)
    return np.argsort(rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel(), kind="stable")
