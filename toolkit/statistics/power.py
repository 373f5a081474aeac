"""What a test set can resolve: the smallest true difference found with a given power, and the examples needed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from toolkit.statistics.arrays import Clusters, check_fraction, cluster_codes, finite_vector
from toolkit.statistics.spread import mean_spread

# Seen 0 times in n independent tries, a share is below 3 / n with 95 % confidence.
RULE_OF_THREE = 3.0


def resolvable_difference(
    differences: ArrayLike, clusters: Clusters | None = None, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Smallest true mean difference that per-example differences [n] like these resolve with the given power.

    Differences of 0/1 scores (all -1, 0 or 1): `resolvable_binary` with psi the share of examples on which exactly one
    system is right; where fewer than 3 of the G clusters hold such an example, psi is 3 / G, the upper bound when none
    was seen, and n is G. All-zero differences are read as those of 0/1 scores. Others: (z + z) * SE; if nothing varies,
    3 / G of the clusters are taken to differ by the largest difference seen. The larger of the clustered and the naive
    standard error counts. inf where no sign flip of the G clusters has a p-value below alpha (G <= 5 at 0.05), however
    large the difference. Never 0. clusters: labels [n].
    Raises ValueError for empty or non-finite differences, wrong cluster labels, power or alpha outside (0, 1).
    """
    array = finite_vector(differences, "differences")
    codes = cluster_codes(clusters, len(array))
    spread = mean_spread(array, codes)
    _z_values(power, alpha)
    if spread.standard_error is None or spread.naive_error is None or not can_resolve(spread.clusters, alpha):
        return math.inf
    unseen = min(1.0, RULE_OF_THREE / spread.clusters)
    if np.isin(array, (-1.0, 0.0, 1.0)).all():
        if len(np.unique(codes[array != 0])) < RULE_OF_THREE:
            # So little disagreement shows no clustering either: count clusters, not examples.
            return resolvable_binary(spread.clusters, unseen, power=power, alpha=alpha)
        effect = max(1.0, spread.design_effect or 1.0)
        return resolvable_binary(spread.n, float(np.count_nonzero(array)) / spread.n, effect, power, alpha)
    error = max(spread.standard_error, spread.naive_error)
    largest = float(np.abs(array).max())
    return resolvable_from_error(error or largest * math.sqrt(unseen / spread.clusters), power, alpha)


def can_resolve(clusters: int, alpha: float = 0.05) -> bool:
    """Whether any difference at all is significant at alpha: that of which all clusters agree has p = 2^(1 - G)."""
    return 2.0 ** (1 - clusters) < alpha


def resolvable_from_error(standard_error: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """(z_{1 - alpha/2} + z_power) * SE: the difference that a two-sided test at alpha finds with that power.

    Raises ValueError unless SE is positive: a standard error of 0 is no variation seen, not perfect resolution.
    """
    if not standard_error > 0:
        raise ValueError(f"standard_error: expected a positive number, found {standard_error!r}")
    z_alpha, z_power = _z_values(power, alpha)
    return (z_alpha + z_power) * standard_error


def resolvable_binary(
    n: float, psi: float, design_effect: float = 1.0, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Smallest difference of two accuracies that n paired examples resolve, psi the share where one alone is right.

    Solves `examples_needed` for delta in closed form. A difference of delta needs psi >= delta, so where the solution
    exceeds psi, psi is raised with it. inf where not even a difference of 1 is resolved (n / design_effect < z^2).
    Source: Connor 1987, "Sample size for testing differences in proportions for the paired-sample design".
    Raises ValueError unless n > 0, 0 < psi <= 1, design_effect > 0 and power, alpha in (0, 1).
    """
    z_alpha, z_power = _z_values(power, alpha)
    if not n > 0 or not 0 < psi <= 1 or not design_effect > 0:
        raise ValueError(f"expected n > 0, 0 < psi <= 1, design_effect > 0, found {n!r}, {psi!r}, {design_effect!r}")
    effective = n / design_effect
    if effective < z_alpha**2:
        return math.inf
    root = math.sqrt(effective) * z_alpha + z_power * math.sqrt(effective + z_power**2 - z_alpha**2)
    ratio = root / (effective + z_power**2)
    return ratio * max(math.sqrt(psi), ratio)


def examples_needed(
    delta: float,
    *,
    psi: float | None = None,
    variance: float | None = None,
    design_effect: float = 1.0,
    power: float = 0.8,
    alpha: float = 0.05,
) -> int:
    """Examples for which a true difference `delta` is found with the given power by a two-sided test at alpha.

    Give psi, the share of examples where exactly one of two 0/1 systems is right: n = (z_{alpha/2} sqrt(psi) + z_power
    sqrt(psi - delta^2))^2 / delta^2; or variance, of the per-example differences: n = (z_{alpha/2} + z_power)^2 *
    variance / delta^2. Both times the design effect, rounded up. Source: Connor 1987; Miller 2024 (arXiv 2411.00640).
    Raises ValueError unless exactly one of psi and variance is given, delta is not 0, |delta| <= psi <= 1 and
    variance > 0.
    """
    z_alpha, z_power = _z_values(power, alpha)
    if delta == 0 or not math.isfinite(delta):
        raise ValueError(f"delta: expected a finite number other than 0, found {delta!r}")
    if (psi is None) == (variance is None) or not design_effect > 0:
        raise ValueError("expected exactly one of psi and variance, and a positive design_effect")
    if psi is not None:
        if not abs(delta) <= psi <= 1:
            raise ValueError(f"psi: expected |delta| <= psi <= 1, found psi {psi!r} with delta {delta!r}")
        scaled = (z_alpha * math.sqrt(psi) + z_power * math.sqrt(psi - delta**2)) ** 2
    else:
        if variance is None or not variance > 0:
            raise ValueError(f"variance: expected a positive number, found {variance!r}")
        scaled = (z_alpha + z_power) ** 2 * variance
    return math.ceil(design_effect * scaled / delta**2 - 1e-9)


def _z_values(power: float, alpha: float) -> tuple[float, float]:
    from scipy.special import ndtri

    check_fraction(power, "power")
    check_fraction(alpha, "alpha")
    return float(ndtri(1 - alpha / 2)), float(ndtri(power))
