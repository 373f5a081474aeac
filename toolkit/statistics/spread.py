"""Standard error of a mean, when examples are independent and when they come in clusters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from toolkit.statistics.arrays import Codes, Vector, cluster_totals

# A standard error this small beside the values is rounding, not information.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Spread:
    """The mean of n examples in G clusters, with its standard error.

    standard_error: clustered where clusters repeat; None where it cannot be estimated (one example or one cluster);
    exactly 0.0 where the clusters do not vary. naive_error: as if all examples were independent.
    """

    mean: float
    standard_error: float | None
    naive_error: float | None
    n: int
    clusters: int

    @property
    def clustered(self) -> bool:
        """Whether some cluster holds more than one example."""
        return self.clusters < self.n

    @property
    def design_effect(self) -> float | None:
        """(clustered / naive standard error) squared; 1 when unclustered; None where either is unknown or zero."""
        if not self.standard_error or not self.naive_error:
            return None
        return (self.standard_error / self.naive_error) ** 2 if self.clustered else 1.0


def mean_spread(values: Vector, codes: Codes) -> Spread:
    """Mean and cluster-robust standard error of `values` [n] with cluster numbers `codes` [n].

    SE = sqrt(G / (G - 1) * sum over clusters of (sum of deviations)^2) / n, which for clusters of one example is
    SD / sqrt(n). Source: Liang & Zeger 1986; Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640).
    """
    n = len(values)
    groups = int(codes.max()) + 1
    mean = math.fsum(values) / n
    deviations = values - mean
    rounding = ROUNDING * float(np.abs(values).max())
    naive = _error(deviations, n, rounding)
    error = naive if groups == n else _error(cluster_totals(deviations, codes), n, rounding)
    return Spread(mean, error, naive, n, groups)


def _error(totals: Vector, n: int, rounding: float) -> float | None:
    groups = len(totals)
    if groups == 1:
        return None
    error = math.sqrt(groups / (groups - 1) * math.fsum(totals**2)) / n
    return error if error > rounding else 0.0
