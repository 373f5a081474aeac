"""Intervals of 95 % cover 95 %, tests at 5 % err 5 %: the bounds are four standard deviations of the simulation."""

import math

import numpy as np
import pytest

from toolkit.statistics import (
    cluster_bootstrap,
    mean_interval,
    paired_difference,
    paired_randomisation,
    resolvable_binary,
    sign_flip_test,
    wilson,
)


def noise(rate: float, repeats: int) -> float:
    return 4 * math.sqrt(rate * (1 - rate) / repeats)


def clustered_scores(generator: np.random.Generator, groups: int, size: int) -> np.ndarray:
    """Gaussian scores of mean 0 that share most of their variance within a cluster, [groups * size]."""
    return np.repeat(generator.normal(size=groups), size) + generator.normal(size=groups * size)


def test_clustered_interval_covers_where_the_naive_one_fails() -> None:
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 8)
    repeats, covered, naive_covered = 1_500, 0, 0
    for _ in range(repeats):
        values = clustered_scores(generator, 30, 8)
        clustered, naive = mean_interval(values, clusters).interval, mean_interval(values).interval
        covered += clustered.low <= 0 <= clustered.high
        naive_covered += naive.low <= 0 <= naive.high
    assert abs(covered / repeats - 0.95) < noise(0.95, repeats)
    assert naive_covered / repeats < 0.8


def test_clustered_paired_binary_interval_covers() -> None:
    generator = np.random.default_rng(1)
    clusters = np.repeat(np.arange(50), 6)
    repeats, covered = 1_200, 0
    for _ in range(repeats):
        right_a = np.repeat(generator.beta(3, 2, size=50), 6)  # mean .6
        right_b = np.repeat(generator.beta(2, 2, size=50), 6)  # mean .5
        a, b = generator.random(300) < right_a, generator.random(300) < right_b
        found = paired_difference(a, b, clusters).interval
        covered += found.low <= 0.1 <= found.high
    assert abs(covered / repeats - 0.95) < noise(0.95, repeats)


@pytest.mark.parametrize("n", [20, 60])
def test_bonett_price_covers_where_the_plain_t_interval_falls_short(n: int) -> None:
    generator = np.random.default_rng(2)
    repeats, covered, wald_covered = 3_000, 0, 0
    for wins, losses, _ in generator.multinomial(n, [0.08, 0.01, 0.91], size=repeats):
        a, b = np.zeros(n), np.zeros(n)
        a[:wins] = 1
        b[wins : wins + losses] = 1
        found = paired_difference(a, b).interval
        covered += found.low <= 0.07 <= found.high
        half = 1.96 * (a - b).std(ddof=1) / math.sqrt(n)
        wald_covered += abs((a - b).mean() - 0.07) <= half
    assert covered / repeats > 0.95 - noise(0.95, repeats)
    assert wald_covered < covered


def test_wilson_covers_on_average_over_proportions() -> None:
    generator = np.random.default_rng(3)
    repeats, covered = 4_000, 0
    for share in generator.uniform(0.02, 0.98, size=repeats):
        found = wilson(generator.binomial(40, share), 40)
        covered += found.low <= share <= found.high
    assert abs(covered / repeats - 0.95) < noise(0.95, repeats)


@pytest.mark.parametrize("groups", [12, 30])
def test_sign_flip_at_five_percent_errs_five_percent(groups: int) -> None:
    generator = np.random.default_rng(4)
    repeats = 1_000
    # Uneven clusters with heavy tails: symmetric, and nothing like normal.
    totals = generator.standard_t(2, size=(repeats, groups)) * generator.integers(1, 9, size=(repeats, groups))
    rejected = sum(sign_flip_test(row, seed=i, draws=999).p_value <= 0.05 for i, row in enumerate(totals))
    assert abs(rejected / repeats - 0.05) < noise(0.05, repeats)


def test_exact_mcnemar_keeps_its_level_and_mid_p_comes_closer() -> None:
    generator = np.random.default_rng(5)
    repeats, exact, mid = 2_000, 0, 0
    for wins, losses, ties in generator.multinomial(100, [0.1, 0.1, 0.8], size=repeats):
        found = paired_difference([1] * wins + [0] * losses + [1] * ties, [0] * wins + [1] * losses + [1] * ties)
        exact += found.p_value <= 0.05
        mid += found.mid_p <= 0.05
    assert exact / repeats < 0.05
    assert exact < mid
    assert abs(mid / repeats - 0.05) < noise(0.05, repeats)


def test_cluster_bootstrap_covers_where_the_naive_one_fails() -> None:
    generator = np.random.default_rng(6)
    clusters = np.repeat(np.arange(40), 5)
    repeats, covered, naive_covered = 300, 0, 0

    def ratio(sums: np.ndarray) -> np.ndarray:
        return sums[:, 0] / sums[:, 1]

    for seed in range(repeats):
        sizes = generator.uniform(1, 3, size=200)
        table = np.column_stack(((1 + clustered_scores(generator, 40, 5)) * sizes, sizes))
        found = cluster_bootstrap(table, ratio, clusters, draws=2_000, seed=seed).interval
        covered += found.low <= 1 <= found.high
        if seed < 100:
            naive = cluster_bootstrap(table, ratio, draws=2_000, seed=seed).interval
            naive_covered += naive.low <= 1 <= naive.high
    assert abs(covered / repeats - 0.95) < noise(0.95, repeats)
    assert naive_covered / 100 < 0.86


def test_randomisation_of_a_ratio_errs_five_percent() -> None:
    generator = np.random.default_rng(7)
    repeats, rejected = 600, 0

    def f1(sums: np.ndarray) -> np.ndarray:
        return 2 * sums[:, 0] / np.maximum(1, 2 * sums[:, 0] + sums[:, 1] + sums[:, 2])

    for seed in range(repeats):
        a, b = generator.multinomial(1, [0.5, 0.2, 0.3], size=(2, 60)).astype(float)
        rejected += paired_randomisation(a, b, f1, np.arange(60) // 2, draws=399, seed=seed) <= 0.05
    assert abs(rejected / repeats - 0.05) < noise(0.05, repeats)


def test_the_resolvable_difference_is_found_four_times_in_five() -> None:
    generator = np.random.default_rng(8)
    n, psi, repeats = 400, 0.25, 2_000
    delta = resolvable_binary(n, psi)
    counts = generator.multinomial(n, [(psi + delta) / 2, (psi - delta) / 2, 1 - psi], size=repeats)
    difference, share = (counts[:, 0] - counts[:, 1]) / n, (counts[:, 0] + counts[:, 1]) / n
    found = np.abs(difference) > 1.959964 * np.sqrt(share / n)  # the McNemar z that the formula plans for
    assert abs(found.mean() - 0.8) < noise(0.8, repeats) + 0.01
