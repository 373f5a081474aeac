import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from toolkit.statistics import mean_interval, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (1, 10), (37, 120), (1, 1), (499, 500)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_agrees_with_scipy(successes: int, n: int, level: float) -> None:
    found = wilson(successes, n, level)
    expected = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.level, found.method) == (level, "Wilson")


def test_wilson_ends_exactly_at_the_edge_when_all_or_none_are_right() -> None:
    z = stats.norm.ppf(0.975)
    assert wilson(30, 30).high == 1.0
    assert wilson(30, 30).low == pytest.approx(30 / (30 + z**2))
    assert wilson(0, 30).low == 0.0
    assert wilson(0, 30).high == pytest.approx(z**2 / (30 + z**2))


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, n)


def test_unclustered_binary_scores_take_wilson() -> None:
    found = mean_interval([1, 1, 0, 1, 0, 1, 1, 1])
    assert found.mean == 0.75
    assert found.interval == wilson(6, 8)
    assert found.standard_error == pytest.approx(stats.sem([1, 1, 0, 1, 0, 1, 1, 1]))
    assert (found.n, found.clusters, found.design_effect) == (8, 8, 1.0)


def test_unclustered_continuous_scores_agree_with_scipy_t() -> None:
    values = np.random.default_rng(1).normal(size=17)
    found = mean_interval(values, level=0.9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    assert found.interval.method == "t"


def test_clusters_of_one_are_no_clusters() -> None:
    values = [0.1, 0.5, 0.4, 0.9]
    assert mean_interval(values, clusters=["a", "b", None, None]) == mean_interval(values)


def test_clustered_interval_agrees_with_hand_computation() -> None:
    # mean 3; deviations a: -2, -1 -> -3; b: 0, 1 -> 1; c: 2 -> 2. Squares 9 + 1 + 4 = 14.
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0], clusters=["a", "a", "b", "b", "c"])
    error = math.sqrt(3 / 2 * 14) / 5
    half = stats.t.ppf(0.975, 2) * error
    assert found.standard_error == pytest.approx(error)
    assert found.design_effect == pytest.approx(error**2 / (2.5 / 5))
    assert (found.interval.low, found.interval.high) == pytest.approx((3 - half, 3 + half))
    assert (found.clusters, found.interval.method, found.few_clusters) == (3, "clustered t", True)


def test_repeating_every_example_in_its_cluster_does_not_narrow_the_interval() -> None:
    values = np.random.default_rng(2).normal(size=12)
    once = mean_interval(values).interval
    often = mean_interval(np.repeat(values, 9), clusters=np.repeat(np.arange(12), 9)).interval
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_interval_is_cut_at_the_bounds() -> None:
    values = [0.99, 0.2, 1.0, 1.0]
    assert mean_interval(values).interval.high > 1
    assert mean_interval(values, bounds=(0, 1)).interval.high == 1
    clustered = mean_interval([1, 1, 1, 0, 1, 1], clusters=[0, 0, 1, 1, 2, 2])
    assert (clustered.interval.high, clustered.interval.method) == (1.0, "clustered t")


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_equal_binary_clusters_fall_back_on_wilson_with_the_number_of_clusters(value: float) -> None:
    found = mean_interval([value] * 12, clusters=[0, 1, 2, 3] * 3)
    expected = wilson(4 * value, 4)
    assert (found.interval.low, found.interval.high) == (expected.low, expected.high)
    assert "effective n = clusters" in found.interval.method
    assert found.standard_error == 0.0


def test_binary_clusters_that_cancel_out_do_not_give_a_zero_width_interval() -> None:
    found = mean_interval([0, 1] * 5, clusters=[0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    expected = wilson(2.5, 5)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))


def test_constant_scores_use_the_exact_rule_of_three_within_bounds() -> None:
    found = mean_interval([0.4] * 50, bounds=(0, 1)).interval
    share = 1 - 0.05 ** (1 / 50)
    assert (found.low, found.high) == pytest.approx((0.4 - 0.4 * share, 0.4 + 0.6 * share))
    assert "rule of three" in found.method
    assert mean_interval([0.4] * 50).interval.low == -math.inf


def test_one_example_or_one_cluster_says_nothing() -> None:
    one = mean_interval([0.3], bounds=(0, 1))
    assert (one.interval.low, one.interval.high, one.interval.method) == (0, 1, "none: one example")
    assert (one.standard_error, one.design_effect) == (None, None)
    cluster = mean_interval([0.3, 0.9], clusters=["d", "d"])
    assert (cluster.interval.low, cluster.interval.high) == (-math.inf, math.inf)
    assert cluster.interval.method == "none: one cluster"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "non-empty"),
        ({"values": [[1.0]]}, "shape"),
        ({"values": [1.0, math.nan]}, "position 1"),
        ({"values": [1.0, 2.0], "clusters": ["a"]}, "one label"),
        ({"values": [1.0, 2.0], "bounds": (0, 1)}, "outside"),
        ({"values": [1.0, 2.0], "bounds": (3, 3)}, "low < high"),
        ({"values": [1.0, 2.0], "level": 95}, "level"),
    ],
)
def test_bad_input_is_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(**arguments)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 5) | st.sampled_from([0.0, 1.0]), st.integers(0, 4)), min_size=2, max_size=25),
    st.randoms(use_true_random=False),
)
def test_order_of_examples_and_names_of_clusters_change_nothing(rows: list, random) -> None:
    shuffled = random.sample(rows, len(rows))
    first = mean_interval([v for v, _ in rows], [g for _, g in rows])
    second = mean_interval([v for v, _ in shuffled], [f"document {9 - g}" for _, g in shuffled])
    assert second.mean == pytest.approx(first.mean, abs=1e-9)
    assert second.interval.low == pytest.approx(first.interval.low, abs=1e-9)
    assert second.interval.high == pytest.approx(first.interval.high, abs=1e-9)
    assert second.interval.method == first.interval.method
    assert first.interval.low < first.interval.high


def test_rounding_is_not_taken_for_variation() -> None:
    # Every cluster sums to .6 on paper; in floating point the sums differ in their last bits.
    found = mean_interval([0.1, 0.2, 0.3, 0.3, 0.2, 0.1, 0.15, 0.35, 0.1], clusters="aaabbbccc", bounds=(0, 1))
    assert found.standard_error == 0.0
    assert "rule of three" in found.interval.method


def test_missing_cluster_labels_are_clusters_of_their_own() -> None:
    values = [0.1, 0.5, 0.4, 0.9, 0.3]
    named = mean_interval(values, clusters=["d", "d", "e", "f", "g"])
    assert mean_interval(values, clusters=["d", "d", math.nan, math.nan, None]) == named
    assert mean_interval(values, clusters=np.array([7.0, 7.0, np.nan, np.nan, np.nan])) == named


def test_zeros_and_ones_on_another_scale_are_no_proportion() -> None:
    assert mean_interval([0, 1, 1, 0, 1], bounds=(0, 1)).interval.method == "Wilson"
    assert mean_interval([0, 1, 1, 0, 1], bounds=(0, 100)).interval.method == "t"
