"""Confidence intervals for a score: one proportion, or the mean of any per-example metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toolkit.statistics.arrays import Clusters, Vector, check_fraction, cluster_codes, finite_vector
from toolkit.statistics.spread import Spread, mean_spread

Bounds = tuple[float, float]

# Below this many clusters a t interval on G - 1 degrees of freedom is not to be trusted alone (MacKinnon & Webb 2017).
FEW_CLUSTERS = 40


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval. low and high are infinite where the data and the bounds say nothing."""

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True)
class MeanEstimate:
    """Mean of one metric over n examples in `clusters` clusters (= n when unclustered).

    standard_error is None for one example or one cluster; design_effect is (clustered SE / naive SE)^2, 1 when
    unclustered, None where either error is unknown or zero.
    """

    mean: float
    interval: Interval
    n: int
    clusters: int
    standard_error: float | None
    design_effect: float | None

    @property
    def few_clusters(self) -> bool:
        """Clustered, by fewer clusters than a t interval needs: the report says so."""
        return self.clusters < self.n and self.clusters < FEW_CLUSTERS


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion, for every count: with all or none right it ends exactly at 1 or 0.

    With all right the low end is n / (n + z^2), about 1 - 3.84 / n at 95 %: the two-sided relative of the rule of
    three. `successes` may be fractional (a mean times an effective n). Source: Wilson 1927; Brown, Cai & DasGupta 2001.
    Raises ValueError unless n >= 1, 0 <= successes <= n and 0 < level < 1.
    """
    check_fraction(level, "level")
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson: expected n >= 1 and 0 <= successes <= n, found {successes!r} of {n!r}")
    z = normal_quantile(level)
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high, level, "Wilson")


def mean_interval(
    values: ArrayLike, clusters: Clusters | None = None, level: float = 0.95, bounds: Bounds | None = None
) -> MeanEstimate:
    """Mean of per-example scores `values` [n] with the interval that suits them.

    Unclustered 0/1 values: Wilson. Other values: t with n - 1 degrees of freedom. Clusters that repeat (labels [n];
    None is a cluster of its own): cluster-robust standard error, t with G - 1. `bounds` are the metric's least and
    greatest value; the interval is cut there. No interval is ever of zero width because nothing happened to vary:
    0/1 values fall back on Wilson with G as effective n, others on the exact bound of `unvaried_interval`; one example
    or one cluster gives the full bounds, or (-inf, inf). `interval.method` says which was used.
    Source: Miller 2024 (arXiv 2411.00640); Wilson 1927.
    Raises ValueError for empty or non-finite values, values outside the bounds, a wrong number of cluster labels.
    """
    check_fraction(level, "level")
    array = finite_vector(values, "values")
    low, high = check_bounds(bounds, array)
    spread = mean_spread(array, cluster_codes(clusters, len(array)))
    if spread.standard_error is None:
        interval = no_interval(spread, level, low, high)
    elif is_binary(array) and bounds in (None, (0, 1)):
        interval = _proportion(spread, level)
    else:
        interval = t_interval(spread, level, low, high)
    return MeanEstimate(spread.mean, interval, spread.n, spread.clusters, spread.standard_error, spread.design_effect)


def _proportion(spread: Spread, level: float) -> Interval:
    if not spread.clustered:
        return wilson(round(spread.mean * spread.n), spread.n, level)
    if spread.standard_error:
        return t_interval(spread, level, 0.0, 1.0)
    found = wilson(spread.mean * spread.clusters, spread.clusters, level)
    return Interval(found.low, found.high, level, "Wilson, effective n = clusters: clusters do not vary")


def t_interval(spread: Spread, level: float, low: float, high: float) -> Interval:
    """mean +- t * SE with G - 1 degrees of freedom, cut at low and high; `unvaried_interval` where SE is 0."""
    from scipy.special import stdtrit

    if not spread.standard_error:
        return unvaried_interval(spread, level, low, high)
    half = float(stdtrit(spread.clusters - 1, 0.5 + level / 2)) * spread.standard_error
    method = "clustered t" if spread.clustered else "t"
    return Interval(max(low, spread.mean - half), min(high, spread.mean + half), level, method)


def unvaried_interval(spread: Spread, level: float, low: float, high: float) -> Interval:
    """Interval when all G clusters gave the same mean m: zero variance seen is not zero variance.

    With confidence `level` at most a share e = 1 - (1 - level)^(1/G) of all clusters (about 3 / G at 95 %, the rule of
    three) gives anything else, at worst low or high: [m - e (m - low), m + e (high - m)]. Infinite without bounds.
    """
    share = 1 - (1 - level) ** (1 / spread.clusters)
    mean = min(max(spread.mean, low), high)
    return Interval(
        mean - share * (mean - low), mean + share * (high - mean), level, "rule of three: no variation observed"
    )


def no_interval(spread: Spread, level: float, low: float, high: float) -> Interval:
    """All the values that are possible: one example or one cluster says nothing about the spread."""
    return Interval(low, high, level, f"none: one {'example' if spread.n == 1 else 'cluster'}")


def check_bounds(bounds: Bounds | None, values: Vector) -> Bounds:
    """The bounds, (-inf, inf) for None. Raises ValueError when they are not ordered or a value lies outside."""
    if bounds is None:
        return -math.inf, math.inf
    low, high = bounds
    if not low < high:
        raise ValueError(f"bounds: expected low < high, found {bounds!r}")
    least, greatest = float(values.min()), float(values.max())
    if least < low or greatest > high:
        raise ValueError(f"bounds: values from {least:g} to {greatest:g} lie outside {bounds!r}")
    return float(low), float(high)


def is_binary(values: Vector) -> bool:
    """Whether every value is 0 or 1."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def normal_quantile(level: float) -> float:
    """z such that a standard normal lies within +-z with probability `level`."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + level / 2))
