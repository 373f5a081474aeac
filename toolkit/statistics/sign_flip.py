"""Cluster sign-flip test: the one test for paired differences of means.

Under the null hypothesis each cluster's total difference is as likely to have come out with the other sign. The p-value
is the share of all 2^M sign patterns of the M non-zero cluster totals whose sum is at least as far from 0 as observed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from toolkit.statistics.arrays import Vector, check_draws

# Sums that differ by less than this share of the largest possible sum are the same sum, rounded differently.
TIE = 1e-10
LARGEST_ENUMERATION = 20
LARGEST_INTEGER_TOTAL = 20_000
CHUNK_CELLS = 4_000_000


@dataclass(frozen=True)
class SignFlip:
    """p_value counts sign patterns at least as extreme as observed; mid_p counts those equally extreme by half."""

    p_value: float
    mid_p: float
    exact: bool


def sign_flip_test(totals: Vector, seed: int = 0, draws: int = 10_000) -> SignFlip:
    """Two-sided test that cluster totals [G] are symmetric about 0.

    Exact, all giving what enumeration gives: totals all of one size by the binomial (with 0/1 scores and clusters of
    one this is McNemar's exact test); whole-number totals (0/1 scores in clusters) by convolving binomials; at most 20
    non-zero totals by enumeration. Otherwise `draws` seeded sign patterns and p = (k + 1) / (draws + 1).
    The result depends on the sizes of the totals and their sum only, not on their order.
    Source: Fisher 1935; Canay, Romano & Shaikh 2017; mid-p: Fagerland, Lydersen & Laake 2013; (k + 1): Phipson & Smyth
    2010. Raises ValueError when draws < 1.
    """
    check_draws(draws, 1)
    sizes = np.sort(np.abs(totals))
    sizes = sizes[sizes > TIE * sizes.max(initial=0.0)]
    if not sizes.size:
        return SignFlip(1.0, 1.0, True)
    observed = abs(float(totals.sum()))
    if sizes[-1] - sizes[0] <= TIE * sizes[-1]:
        return _binomial(round((sizes.sum() - observed) / (2 * sizes.mean())), sizes.size)
    if np.array_equal(sizes, np.round(sizes)) and sizes.sum() <= LARGEST_INTEGER_TOTAL:
        return _convolve(sizes.astype(np.int64), round(observed))
    if sizes.size <= LARGEST_ENUMERATION:
        return _enumerate(sizes, observed)
    return _draw(sizes, observed, seed, draws)


def _binomial(fewer: int, signs: int) -> SignFlip:
    """All totals of one size: `fewer` of the `signs` point one way, the rest the other."""
    from scipy.special import bdtr

    point = float(_binomial_probabilities(signs)[fewer])
    if 2 * fewer == signs:
        return SignFlip(1.0, 1.0 - point / 2, True)
    p_value = min(1.0, 2 * float(bdtr(fewer, signs, 0.5)))
    return SignFlip(p_value, p_value - point, True)


def _convolve(sizes: np.ndarray[tuple[int], np.dtype[np.int64]], observed: int) -> SignFlip:
    """Whole-number totals: the sum of those flipped to plus is a sum of size * Binomial(count, 1/2)."""
    probabilities = np.ones(1)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        spread = np.zeros(int(size * count) + 1)
        spread[:: int(size)] = _binomial_probabilities(int(count))
        probabilities = np.convolve(probabilities, spread)
    distances = np.abs(2 * np.arange(len(probabilities)) - (len(probabilities) - 1))
    at_least = float(probabilities[distances >= observed].sum())
    equal = float(probabilities[distances == observed].sum())
    return SignFlip(min(1.0, at_least), min(1.0, at_least - equal / 2), True)


def _enumerate(sizes: Vector, observed: float) -> SignFlip:
    """Every sign pattern, the first sign fixed: the other half is its mirror image."""
    sums = sizes[:1]
    for size in sizes[1:]:
        sums = np.concatenate((sums + size, sums - size))
    beyond, equal = _count(sums, observed, sizes)
    return SignFlip((beyond + equal) / len(sums), (beyond + equal / 2) / len(sums), True)


def _draw(sizes: Vector, observed: float, seed: int, draws: int) -> SignFlip:
    generator = np.random.default_rng(seed)
    beyond, equal = 0, 1  # the observed pattern is one of the patterns
    for rows in chunk_rows(draws, sizes.size, CHUNK_CELLS):
        signs = generator.integers(0, 2, size=(rows, sizes.size), dtype=np.int8) * 2.0 - 1.0
        more_beyond, more_equal = _count(signs @ sizes, observed, sizes)
        beyond, equal = beyond + more_beyond, equal + more_equal
    return SignFlip((beyond + equal) / (draws + 1), (beyond + equal / 2) / (draws + 1), False)


def _count(sums: Vector, observed: float, sizes: Vector) -> tuple[int, int]:
    """How many sums lie further from 0 than observed, and how many equally far."""
    tie = TIE * float(sizes.sum())
    distances = np.abs(sums)
    beyond = int(np.count_nonzero(distances > observed + tie))
    return beyond, int(np.count_nonzero(distances >= observed - tie)) - beyond


def _binomial_probabilities(count: int) -> Vector:
    """P[Binomial(count, 1/2) = j] for j = 0..count."""
    from scipy.special import gammaln

    j = np.arange(count + 1)
    log_choose = gammaln(count + 1) - gammaln(j + 1) - gammaln(count - j + 1)
    result: Vector = np.exp(log_choose - count * np.log(2.0))
    return result


def chunk_rows(rows: int, columns: int, cells: int) -> Iterator[int]:
    """Cut `rows` into chunks so that a chunk of `columns` columns holds at most `cells` cells (at least one row)."""
    step = max(1, cells // columns)
    for start in range(0, rows, step):
        yield min(step, rows - start)
