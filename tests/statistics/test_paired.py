import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from toolkit.statistics import bonett_price, paired_difference, sign_flip_test


def binary_scores(wins: int, losses: int, ties: int) -> tuple[list[int], list[int]]:
    return [1] * wins + [0] * losses + [1] * ties, [0] * wins + [1] * losses + [1] * ties


def enumerated(totals: list[float]) -> tuple[float, float]:
    """The definition: every sign pattern, written without any of the short cuts."""
    sums = [
        abs(sum(s * t for s, t in zip(signs, totals, strict=True))) for signs in product((1, -1), repeat=len(totals))
    ]
    observed = abs(sum(totals))
    at_least = sum(s >= observed - 1e-9 for s in sums)
    beyond = sum(s > observed + 1e-9 for s in sums)
    return at_least / len(sums), (at_least + beyond) / 2 / len(sums)


@pytest.mark.parametrize(("wins", "losses"), [(6, 0), (5, 0), (7, 2), (3, 3), (1, 8), (1, 0)])
def test_binary_singletons_are_exact_mcnemar_and_equal_the_enumeration(wins: int, losses: int) -> None:
    found = paired_difference(*binary_scores(wins, losses, 20))
    assert found.p_value == pytest.approx(stats.binomtest(wins, wins + losses).pvalue)
    assert (found.p_value, found.mid_p) == pytest.approx(enumerated([1.0] * wins + [-1.0] * losses))
    assert found.test == "McNemar, exact"
    assert (found.wins, found.losses, found.ties) == (wins, losses, 20)


def test_six_flips_one_way_are_the_fewest_that_are_significant() -> None:
    assert paired_difference(*binary_scores(5, 0, 50)).p_value > 0.05
    assert paired_difference(*binary_scores(6, 0, 50)).p_value < 0.05


def test_mid_p_takes_off_half_the_point_probability_on_each_side() -> None:
    # Fagerland, Lydersen & Laake 2013, airway hyper-responsiveness: b = 1, c = 7: exact .0703, mid-p .0391.
    found = paired_difference(*binary_scores(1, 7, 13))
    assert (found.p_value, found.mid_p) == pytest.approx((0.0703125, 0.0390625))


def test_mcnemar_handles_many_discordant_pairs() -> None:
    found = paired_difference(*binary_scores(5200, 4800, 10_000))
    assert found.p_value == pytest.approx(stats.binomtest(5200, 10_000).pvalue, rel=1e-9)


def test_no_disagreement_is_no_evidence_and_no_certainty() -> None:
    found = paired_difference([1, 0, 1] * 200, [1, 0, 1] * 200)
    assert (found.difference, found.p_value, found.mid_p) == (0.0, 1.0, 1.0)
    assert found.interval.low < 0 < found.interval.high
    assert found.method == "Bonett-Price"


def test_bonett_price_agrees_with_hand_computation() -> None:
    # 9 wins, 3 losses of 28: pb = 10/30, pc = 4/30, difference .2, variance (14/30 - .04)/30.
    found = bonett_price(9, 3, 28)
    half = 1.959963984540054 * math.sqrt((14 / 30 - 0.04) / 30)
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half))
    assert paired_difference(*binary_scores(9, 3, 16)).interval == found


@pytest.mark.parametrize(
    ("wins", "losses", "ties", "method"),
    [(30, 20, 249, "Bonett-Price"), (30, 20, 250, "t"), (5, 4, 900, "Bonett-Price")],
)
def test_interval_of_binary_scores_follows_size_and_disagreement(
    wins: int, losses: int, ties: int, method: str
) -> None:
    assert paired_difference(*binary_scores(wins, losses, ties)).method == method


def test_continuous_scores_agree_with_scipy_paired_t() -> None:
    a, b = np.random.default_rng(3).normal(size=(2, 40))
    found = paired_difference(a, b)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    assert (found.method, found.test, found.mid_p) == ("t", "sign-flip, 10000 seeded draws", None)


def test_clustered_difference_agrees_with_hand_computation() -> None:
    # differences 1, 0 | 1, 1 | -1, 0: mean 1/3; cluster deviations 1/3, 4/3, -5/3; squares (1 + 16 + 25) / 9.
    found = paired_difference([1, 1, 1, 1, 0, 1], [0, 1, 0, 0, 1, 1], clusters="aabbcc")
    error = math.sqrt(3 / 2 * 42 / 9) / 6
    assert found.standard_error == pytest.approx(error)
    assert found.interval.high == pytest.approx(min(1, 1 / 3 + stats.t.ppf(0.975, 2) * error))
    assert (found.method, found.test) == ("clustered t", "cluster sign-flip, exact")
    # totals 1, 2, -1: |sum| 2 or more in 4 of 8 patterns (4 twice, 2 four times): 6 of 8.
    assert (found.p_value, found.mid_p) == pytest.approx(enumerated([1, 2, -1]))
    assert found.p_value == 6 / 8


@pytest.mark.parametrize("totals", [[0.1, 0.2, -0.3, 0.4], [0.3, 0.3, 0.3], [0.7, -0.1, 0.1], [1.5, 2.5, -1.0, 0.0]])
def test_sums_equal_on_paper_count_as_ties(totals: list[float]) -> None:
    found = sign_flip_test(np.array(totals))
    assert (found.p_value, found.mid_p) == pytest.approx(enumerated(totals))
    assert found.exact


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_short_cut_for_whole_numbers_equals_the_enumeration(totals: list[int]) -> None:
    found = sign_flip_test(np.array(totals, dtype=float))
    assert found.p_value == pytest.approx(enumerated([float(t) for t in totals])[0])
    if any(totals):
        assert found.mid_p == pytest.approx(enumerated([float(t) for t in totals])[1])


def test_seeded_draws_agree_with_the_exact_distribution() -> None:
    totals = np.random.default_rng(4).integers(-5, 6, size=60).astype(float) + (np.arange(60) < 20)
    exact = sign_flip_test(totals)
    # A size that is not a whole number sends the same question down the road of random draws.
    drawn = sign_flip_test(totals * (1 / 3), draws=20_000)
    assert exact.exact
    assert not drawn.exact
    assert 0.01 < exact.p_value < 0.99
    noise = 4 * math.sqrt(exact.p_value * (1 - exact.p_value) / 20_000)
    assert abs(drawn.p_value - exact.p_value) < noise + 1 / 20_000
    assert abs(drawn.mid_p - exact.mid_p) < noise + 1 / 20_000


def test_seeded_p_value_is_never_zero_and_repeats_with_its_seed() -> None:
    totals = np.random.default_rng(5).uniform(1, 2, size=50)
    assert sign_flip_test(totals, draws=500).p_value == pytest.approx(1 / 501)
    mixed = np.random.default_rng(6).normal(0.2, 1, size=50)
    assert sign_flip_test(mixed, seed=1) == sign_flip_test(mixed, seed=1)
    assert sign_flip_test(mixed, seed=1) != sign_flip_test(mixed, seed=2)


def test_draws_are_chunked() -> None:
    totals = np.random.default_rng(7).normal(0.02, 1, size=9_000)
    assert sign_flip_test(totals, draws=1_000).p_value == pytest.approx(stats.ttest_1samp(totals, 0).pvalue, abs=0.06)


def test_differences_that_cancel_within_every_cluster_are_no_evidence() -> None:
    found = paired_difference([0.1 + 0.2, 0.5] * 30, [0.5, 0.1 + 0.2] * 30, clusters=np.repeat(np.arange(30), 2))
    assert found.p_value == 1.0
    assert (found.interval.low, found.interval.high) == (-math.inf, math.inf)
    bounded = paired_difference(
        [0.1 + 0.2, 0.5] * 30, [0.5, 0.1 + 0.2] * 30, clusters=np.repeat(np.arange(30), 2), bounds=(0, 1)
    )
    assert bounded.interval.high == pytest.approx(1 - 0.05 ** (1 / 30))


def test_one_cluster_gives_the_full_range() -> None:
    found = paired_difference([1, 1, 0], [0, 0, 0], clusters=["x"] * 3)
    assert (found.interval.low, found.interval.high, found.p_value) == (-1, 1, 1)
    assert found.standard_error is None
    assert found.method == "none: one cluster"


def test_scores_of_different_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        paired_difference([1, 0, 1], [1, 0])


scores = st.one_of(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0]), st.integers(0, 30)), min_size=2),
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 30)), min_size=2, max_size=60),
)


@settings(max_examples=80, deadline=None)
@given(scores, st.randoms(use_true_random=False))
def test_order_of_examples_and_names_of_clusters_change_nothing(rows: list, random) -> None:
    shuffled = random.sample(rows, len(rows))
    first = paired_difference(*zip(*[(a, b) for a, b, _ in rows], strict=True), [g for *_, g in rows], draws=300)
    second = paired_difference(
        *zip(*[(a, b) for a, b, _ in shuffled], strict=True), [("document", -g) for *_, g in shuffled], draws=300
    )
    assert second.p_value == first.p_value
    assert second.mid_p == first.mid_p
    assert second.difference == pytest.approx(first.difference, abs=1e-9)
    assert second.interval.low == pytest.approx(first.interval.low, abs=1e-9)
    assert (second.wins, second.ties, second.method, second.test) == (first.wins, first.ties, first.method, first.test)


@settings(max_examples=80, deadline=None)
@given(scores)
def test_swapping_the_systems_negates_the_difference(rows: list) -> None:
    a, b, clusters = zip(*rows, strict=True)
    one, other = paired_difference(a, b, clusters, draws=300), paired_difference(b, a, clusters, draws=300)
    assert other.difference == pytest.approx(-one.difference, abs=1e-12)
    assert (other.interval.low, other.interval.high) == pytest.approx((-one.interval.high, -one.interval.low))
    assert (other.p_value, other.mid_p) == (one.p_value, one.mid_p)
    assert (other.wins, other.losses) == (one.losses, one.wins)
    assert one.interval.low <= one.difference <= one.interval.high
    assert one.interval.low < one.interval.high


def test_rounding_left_in_every_cluster_is_no_evidence() -> None:
    # .1 + .2 - .3 is 5.6e-17, thirty times over and always positive.
    found = paired_difference([0.1, 0.2, 0.0] * 30, [0.0, 0.0, 0.3] * 30, clusters=np.repeat(np.arange(30), 3))
    assert found.p_value == 1.0


def test_zeros_and_ones_on_another_scale_are_no_proportions() -> None:
    found = paired_difference([1, 0, 1, 1], [0, 0, 1, 0], bounds=(-1, 1))
    assert (found.method, found.mid_p) == ("t", None)
    alone = paired_difference([1], [0], bounds=(-1, 1))
    assert (alone.interval.low, alone.interval.high) == (-2, 2)
