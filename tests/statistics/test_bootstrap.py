import math

import numpy as np
import pytest
from scipy import stats

from toolkit.statistics import cluster_bootstrap, paired_cluster_bootstrap, paired_randomisation


def mean(sums: np.ndarray) -> np.ndarray:
    """Columns: value, 1."""
    return sums[:, 0] / sums[:, 1]


def f1(sums: np.ndarray) -> np.ndarray:
    """Columns: true positive, false positive, false negative."""
    return 2 * sums[:, 0] / np.maximum(1, 2 * sums[:, 0] + sums[:, 1] + sums[:, 2])


def with_ones(values: np.ndarray) -> np.ndarray:
    return np.column_stack((values, np.ones(len(values))))


def cells(generator: np.random.Generator, n: int, skill: float) -> np.ndarray:
    return generator.multinomial(1, [skill, (1 - skill) / 2, (1 - skill) / 2], size=n).astype(float)


def test_bca_of_a_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=40)
    found = cluster_bootstrap(with_ones(values), mean, draws=20_000)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", random_state=np.random.default_rng(1)
    )
    assert found.value == pytest.approx(values.mean())
    assert found.interval.method == "BCa bootstrap"
    noise = 0.1 * expected.standard_error
    assert found.interval.low == pytest.approx(expected.confidence_interval.low, abs=noise)
    assert found.interval.high == pytest.approx(expected.confidence_interval.high, abs=noise)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.05)
    # The correction must move the interval of a skewed sample: plain percentiles sit lower.
    assert found.interval.high > np.quantile(expected.bootstrap_distribution, 0.975) + noise / 4


def test_repeating_every_example_in_its_cluster_changes_nothing() -> None:
    table = cells(np.random.default_rng(2), 30, 0.7)
    once = cluster_bootstrap(table, f1, draws=2_000)
    often = cluster_bootstrap(np.repeat(table, 5, axis=0), f1, clusters=np.repeat(np.arange(30), 5), draws=2_000)
    naive = cluster_bootstrap(np.repeat(table, 5, axis=0), f1, draws=2_000)
    assert (often.interval.low, often.interval.high) == pytest.approx((once.interval.low, once.interval.high))
    assert (often.n, often.clusters) == (150, 30)
    assert naive.interval.high - naive.interval.low < 0.6 * (often.interval.high - often.interval.low)


def test_order_of_examples_and_names_of_clusters_change_no_bit() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.random((2, 50, 3))
    clusters = generator.integers(0, 15, 50)
    order = generator.permutation(50)
    names = np.array([f"document {99 - c}" for c in clusters])
    assert cluster_bootstrap(a, f1, clusters, draws=2_000) == cluster_bootstrap(a[order], f1, names[order], draws=2_000)
    assert paired_cluster_bootstrap(a, b, f1, clusters, draws=2_000) == paired_cluster_bootstrap(
        a[order], b[order], f1, names[order], draws=2_000
    )
    assert paired_randomisation(a, b, f1, clusters, draws=200) == paired_randomisation(
        a[order], b[order], f1, names[order], draws=200
    )


def test_swapping_the_systems_negates_the_difference() -> None:
    generator = np.random.default_rng(4)
    a, b = cells(generator, 60, 0.8), cells(generator, 60, 0.6)
    one, other = paired_cluster_bootstrap(a, b, f1, draws=2_000), paired_cluster_bootstrap(b, a, f1, draws=2_000)
    assert one.value == f1(a.sum(0)[None])[0] - f1(b.sum(0)[None])[0] > 0
    assert (other.value, other.interval.low, other.interval.high) == (-one.value, -one.interval.high, -one.interval.low)
    assert paired_randomisation(a, b, f1, draws=500) == paired_randomisation(b, a, f1, draws=500)


def test_pairing_narrows_the_interval_of_systems_that_fail_together() -> None:
    generator = np.random.default_rng(5)
    difficulty = generator.normal(size=80)
    a = with_ones(difficulty + 0.1 * generator.normal(size=80))
    b = with_ones(difficulty + 0.1 * generator.normal(size=80))
    alone = cluster_bootstrap(a, mean, draws=2_000).interval
    paired = paired_cluster_bootstrap(a, b, mean, draws=2_000).interval
    assert paired.high - paired.low < 0.3 * (alone.high - alone.low)


def test_no_variation_gives_no_certainty() -> None:
    table = np.tile([1.0, 0.0, 0.0], (30, 1))
    found = cluster_bootstrap(table, f1, draws=2_000)
    assert (found.value, found.interval.low, found.interval.high) == (1.0, -math.inf, math.inf)
    assert found.interval.method == "none: no variation between draws"
    same = paired_cluster_bootstrap(table, table, f1, draws=2_000)
    assert (same.value, same.interval.high) == (0.0, math.inf)
    one = cluster_bootstrap(table, f1, clusters=["d"] * 30, draws=2_000)
    assert (one.interval.method, one.standard_error) == ("none: one cluster", None)


def test_degenerate_correction_falls_back_on_percentiles() -> None:
    # The maximum of presence counts: the share of draws below the value is 0 or the jackknife does not move.
    def any_seen(sums: np.ndarray) -> np.ndarray:
        return (sums[:, 0] > 0).astype(float)

    found = cluster_bootstrap([[1.0], [1.0], [0.0], [0.0], [0.0]], any_seen, draws=2_000)
    assert found.interval.method.startswith("percentile")
    assert (found.interval.low, found.interval.high) == (0.0, 1.0)


def test_few_clusters_are_flagged() -> None:
    values = with_ones(np.random.default_rng(6).normal(size=20))
    assert not cluster_bootstrap(values, mean, draws=2_000).few_clusters
    assert cluster_bootstrap(values[:19], mean, draws=2_000).few_clusters


def test_many_draws_are_chunked_without_changing_the_seed_s_meaning() -> None:
    values = with_ones(np.random.default_rng(7).normal(size=3_000))
    found = cluster_bootstrap(values, mean, draws=2_000)
    expected = stats.sem(values[:, 0])
    assert found.standard_error == pytest.approx(expected, rel=0.1)
    assert found == cluster_bootstrap(values, mean, draws=2_000)
    assert found != cluster_bootstrap(values, mean, draws=2_000, seed=1)


def test_undefined_values_and_wrong_shapes_are_refused() -> None:
    def zero_division(sums: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return sums[:, 0] / sums[:, 1]

    with pytest.raises(ValueError, match="0/0"):
        cluster_bootstrap([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]], zero_division, draws=2_000)
    with pytest.raises(ValueError, match="expected shape"):
        cluster_bootstrap([[1.0, 1.0], [0.0, 2.0]], lambda sums: sums, draws=2_000)
    with pytest.raises(ValueError, match="at least 2000"):
        cluster_bootstrap([[1.0], [0.0]], mean, draws=100)
    with pytest.raises(ValueError, match="differ"):
        paired_cluster_bootstrap([[1.0], [0.0]], [[1.0]], mean)


def test_randomisation_of_a_mean_is_exact_mcnemar() -> None:
    a, b = np.array([1.0] * 8 + [0.0] * 2 + [1.0] * 9), np.array([0.0] * 8 + [1.0] * 2 + [1.0] * 9)
    assert paired_randomisation(with_ones(a), with_ones(b), mean) == pytest.approx(stats.binomtest(8, 10).pvalue)


def test_randomisation_by_draws_agrees_with_enumeration() -> None:
    generator = np.random.default_rng(8)
    a, b = cells(generator, 40, 0.75), cells(generator, 40, 0.55)
    clusters = np.repeat(np.arange(10), 4)
    exact = paired_randomisation(a, b, f1, clusters)
    drawn = paired_randomisation(a, b, f1, clusters, draws=1_000)
    assert (exact * 2**10).is_integer()
    assert 0.005 < exact < 0.6
    assert abs(drawn - exact) < 4 * math.sqrt(exact * (1 - exact) / 1_000) + 1 / 1_000


def test_identical_systems_have_p_one() -> None:
    table = cells(np.random.default_rng(9), 20, 0.5)
    assert paired_randomisation(table, table, f1) == 1.0


def test_replicates_equal_to_the_value_count_half() -> None:
    # Half right of 20: by symmetry the interval is centred on one half, though a sixth of the draws tie with it.
    found = cluster_bootstrap(with_ones(np.array([0.0, 1.0] * 10)), mean, draws=20_000).interval
    assert found.method == "BCa bootstrap"
    assert found.low + found.high == pytest.approx(1, abs=0.01)


def test_randomisation_enumerates_in_chunks() -> None:
    a, b = np.array([1.0] * 14 + [0.0] * 4), np.array([0.0] * 14 + [1.0] * 4)
    found = paired_randomisation(with_ones(a), with_ones(b), mean, draws=2**18)
    assert found == pytest.approx(stats.binomtest(14, 18).pvalue, rel=1e-12)


def test_randomisation_by_draws_is_never_zero() -> None:
    ones = np.ones(60)
    assert paired_randomisation(with_ones(ones), with_ones(ones * 0), mean, draws=200) == pytest.approx(1 / 201)
