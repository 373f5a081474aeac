"""Two systems on the same examples: the mean difference, its interval and its p-value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toolkit.statistics.arrays import (
    Clusters,
    Codes,
    Vector,
    check_fraction,
    cluster_codes,
    cluster_totals,
    finite_vector,
)
from toolkit.statistics.intervals import (
    FEW_CLUSTERS,
    Bounds,
    Interval,
    check_bounds,
    is_binary,
    no_interval,
    normal_quantile,
    t_interval,
)
from toolkit.statistics.sign_flip import SignFlip, sign_flip_test
from toolkit.statistics.spread import Spread, mean_spread

# From here on, and with enough examples on which the systems differ, t is as good as Bonett-Price for 0/1 scores.
T_FROM_EXAMPLES = 300
T_FROM_DISCORDANT = 10


@dataclass(frozen=True)
class PairedDifference:
    """mean(a) - mean(b) over the same n examples in `clusters` clusters (= n when unclustered).

    wins, losses, ties count examples where a is above, below, equal to b. method names the interval, test the p-value.
    mid_p is given for 0/1 scores only. standard_error is None for one example or one cluster; design_effect is None
    where an error is unknown or zero.
    """

    difference: float
    interval: Interval
    p_value: float
    n: int
    clusters: int
    wins: int
    losses: int
    ties: int
    standard_error: float | None
    design_effect: float | None
    method: str
    test: str
    mid_p: float | None

    @property
    def few_clusters(self) -> bool:
        """Clustered, by fewer clusters than a t interval needs: rely on the p-value and say so."""
        return self.clusters < self.n and self.clusters < FEW_CLUSTERS


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Clusters | None = None,
    level: float = 0.95,
    seed: int = 0,
    draws: int = 10_000,
    bounds: Bounds | None = None,
) -> PairedDifference:
    """Compare per-example scores a [n] and b [n] of two systems on the same examples; clusters: labels [n].

    Interval: unclustered 0/1 scores with n < 300 (or fewer than 10 examples on which they differ): Bonett-Price.
    Otherwise t with n - 1 degrees of freedom, or cluster-robust t with G - 1; never of zero width, see
    `unvaried_interval`. `bounds` are those of the scores, taken as (0, 1) when all scores are 0/1.
    p-value: cluster sign-flip (`sign_flip_test`). With 0/1 scores and clusters of one it is McNemar's exact test,
    2 P[Bin(wins + losses, 1/2) <= min(wins, losses)], computed so: it equals the enumeration of all flips.
    Swapping a and b negates the difference and leaves the p-value; order and names of clusters change nothing.
    Source: Bonett & Price 2012; Miller 2024 (arXiv 2411.00640); Fagerland et al. 2013 (mid_p).
    Raises ValueError for empty, non-finite or unequally long scores, scores outside bounds, wrong cluster labels.
    """
    check_fraction(level, "level")
    scores_a, scores_b = _pair(a, b)
    together = np.concatenate((scores_a, scores_b))
    binary = is_binary(together) and bounds in (None, (0, 1))
    low, high = check_bounds((0.0, 1.0) if binary else bounds, together)
    differences = scores_a - scores_b
    codes = cluster_codes(clusters, len(differences))
    spread = mean_spread(differences, codes)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    interval = _interval(spread, wins, losses, level, high - low, binary)
    flips = sign_flip_test(_totals(differences, codes), seed, draws)
    return PairedDifference(
        difference=spread.mean,
        interval=interval,
        p_value=flips.p_value,
        n=spread.n,
        clusters=spread.clusters,
        wins=wins,
        losses=losses,
        ties=spread.n - wins - losses,
        standard_error=spread.standard_error,
        design_effect=spread.design_effect,
        method=interval.method,
        test=_test_name(spread, binary, flips, draws),
        mid_p=flips.mid_p if binary else None,
    )


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Vector, Vector]:
    scores_a, scores_b = finite_vector(a, "a"), finite_vector(b, "b")
    if len(scores_a) != len(scores_b):
        raise ValueError(f"a and b: expected scores of the same examples, found {len(scores_a)} and {len(scores_b)}")
    return scores_a, scores_b


def _interval(spread: Spread, wins: int, losses: int, level: float, reach: float, binary: bool) -> Interval:
    if spread.standard_error is None:
        return no_interval(spread, level, -reach, reach)
    few = spread.n < T_FROM_EXAMPLES or wins + losses < T_FROM_DISCORDANT
    if binary and not spread.clustered and few:
        return bonett_price(wins, losses, spread.n, level)
    return t_interval(spread, level, -reach, reach)


def bonett_price(wins: int, losses: int, n: int, level: float = 0.95) -> Interval:
    """Adjusted Wald interval for a paired difference of proportions: one win and one loss more, two examples more.

    Source: Bonett & Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data". Raises ValueError unless n >= 1, wins and losses >= 0, wins + losses <= n and 0 < level < 1.
    """
    check_fraction(level, "level")
    if n < 1 or min(wins, losses) < 0 or wins + losses > n:
        raise ValueError(f"bonett_price: found {wins} wins and {losses} losses of {n} examples")
    share_won, share_lost = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    centre = share_won - share_lost
    half = normal_quantile(level) * math.sqrt((share_won + share_lost - centre**2) / (n + 2))
    return Interval(max(-1.0, centre - half), min(1.0, centre + half), level, "Bonett-Price")


def _totals(differences: Vector, codes: Codes) -> Vector:
    """Cluster totals; rounding left over from differences that cancel within a cluster is set to 0."""
    totals = cluster_totals(differences, codes)
    rounding = 1e-12 * cluster_totals(np.abs(differences), codes)
    return np.where(np.abs(totals) <= rounding, 0.0, totals)


def _test_name(spread: Spread, binary: bool, flips: SignFlip, draws: int) -> str:
    if binary and not spread.clustered:
        return "McNemar, exact"
    name = "cluster sign-flip" if spread.clustered else "sign-flip"
    return f"{name}, exact" if flips.exact else f"{name}, {draws} seeded draws"
