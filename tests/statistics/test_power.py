import math

import numpy as np
import pytest
from scipy import stats

from toolkit.statistics import (
    examples_needed,
    paired_difference,
    resolvable_binary,
    resolvable_difference,
    resolvable_from_error,
)

# field/evaluation.md, 5.9: examples needed for 80 % power at 5 %.
NEEDED = {
    0.01: (7_847, 15_695, 23_544, 31_393),
    0.02: (1_960, 3_922, 5_884, 7_847),
    0.03: (870, 1_742, 2_614, 3_486),
    0.05: (312, 626, 940, 1_253),
    0.10: (None, 155, 233, 312),
}
RESOLVED_POINTS = {
    100: (8.8, 12.4, 15.2),
    200: (6.2, 8.8, 10.8),
    500: (4.0, 5.6, 6.8),
    1_000: (2.8, 4.0, 4.8),
    2_000: (2.0, 2.8, 3.4),
}


@pytest.mark.parametrize("delta", NEEDED)
def test_examples_needed_match_the_published_table(delta: float) -> None:
    for psi, expected in zip((0.1, 0.2, 0.3, 0.4), NEEDED[delta], strict=True):
        if expected is not None:
            assert abs(examples_needed(delta, psi=psi) - expected) <= 1


@pytest.mark.parametrize("n", RESOLVED_POINTS)
def test_resolvable_difference_matches_the_published_table(n: int) -> None:
    for psi, expected in zip((0.1, 0.2, 0.3), RESOLVED_POINTS[n], strict=True):
        assert 100 * resolvable_binary(n, psi) == pytest.approx(expected, abs=0.051)


def test_holm_over_three_contrasts_needs_a_third_more() -> None:
    assert abs(examples_needed(0.05, psi=0.2, alpha=0.05 / 3) - 835) <= 1


def test_miller_s_planning_case() -> None:
    assert examples_needed(0.03, variance=1 / 9) == 969
    assert examples_needed(-0.03, variance=1 / 9, design_effect=2.0) == 1_938


@pytest.mark.parametrize("n", [5, 12, 60, 300, 5_000])
@pytest.mark.parametrize("psi", [0.05, 0.3, 1.0])
def test_resolvable_difference_inverts_examples_needed(n: int, psi: float) -> None:
    delta = resolvable_binary(n, psi)
    assert 0 < delta <= 1
    assert examples_needed(delta, psi=max(psi, delta)) == pytest.approx(n, abs=1)


def test_too_few_examples_resolve_nothing() -> None:
    assert resolvable_binary(3, 0.5) == math.inf
    assert resolvable_difference([1.0]) == math.inf
    assert resolvable_difference([1.0, 0.0, 0.0], clusters=["d"] * 3) == math.inf


def test_difference_of_binary_scores_uses_the_observed_disagreement() -> None:
    differences = [1] * 25 + [-1] * 15 + [0] * 160
    assert resolvable_difference(differences) == pytest.approx(resolvable_binary(200, 0.2))


def test_no_disagreement_does_not_claim_to_resolve_zero() -> None:
    assert resolvable_difference([0] * 300) == pytest.approx(resolvable_binary(300, 0.01))
    assert resolvable_difference([0] * 300) > 0.02
    assert resolvable_difference([0] * 300, clusters=np.arange(300) // 10) == pytest.approx(resolvable_binary(30, 0.1))
    # One or two disagreements say no more about the clusters than none.
    assert resolvable_difference([1] + [0] * 299) == resolvable_difference([0] * 300)
    assert resolvable_difference([1] + [0] * 299, clusters=np.arange(300) // 10) == resolvable_binary(30, 0.1)


def test_constant_differences_do_not_claim_to_resolve_zero() -> None:
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * 0.1 * math.sqrt(3) / 40
    assert resolvable_difference([0.1] * 40) == pytest.approx(expected)


def test_continuous_differences_use_the_clustered_standard_error() -> None:
    generator = np.random.default_rng(0)
    differences = np.repeat(generator.normal(size=30), 5) + 0.1 * generator.normal(size=150)
    clusters = np.repeat(np.arange(30), 5)
    error = paired_difference(differences, np.zeros(150), clusters).standard_error
    assert resolvable_difference(differences, clusters) == pytest.approx(resolvable_from_error(error))
    assert resolvable_from_error(error) == pytest.approx(2.801585 * error, rel=1e-6)
    assert resolvable_difference(differences, clusters) > 1.8 * resolvable_difference(differences)


def test_clustered_disagreement_counts_for_less() -> None:
    differences = [1] * 20 + [-1] * 20 + [0] * 160
    clusters = np.repeat(np.arange(20), 10)
    assert resolvable_difference(differences, clusters) > 2 * resolvable_difference(differences)


def test_cancelling_clusters_do_not_sharpen_the_resolution() -> None:
    differences = [1, -1] * 50
    assert resolvable_difference(differences, np.repeat(np.arange(50), 2)) == resolvable_difference(differences)


@pytest.mark.parametrize(
    "arguments",
    [
        {"delta": 0.0, "psi": 0.2},
        {"delta": 0.3, "psi": 0.2},
        {"delta": 0.1},
        {"delta": 0.1, "psi": 0.2, "variance": 0.1},
        {"delta": 0.1, "variance": 0.0},
        {"delta": 0.1, "psi": 0.2, "power": 1.0},
    ],
)
def test_impossible_plans_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        examples_needed(**arguments)


def test_a_standard_error_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="standard_error"):
        resolvable_from_error(0.0)


@pytest.mark.parametrize(("clusters", "resolves"), [(2, False), (5, False), (6, True), (40, True)])
def test_what_no_sign_flip_can_show_is_not_resolved(clusters: int, resolves: bool) -> None:
    """That all clusters agree has a p-value of 2^(1 - G), however many examples they hold."""
    generator = np.random.default_rng(0)
    for differences in (generator.normal(0.3, 0.1, size=200), generator.choice([0.0, 1.0], size=200)):
        labels = [str(place % clusters) for place in range(200)]
        found = resolvable_difference(differences, labels)
        assert math.isfinite(found) is resolves
        assert (paired_difference(differences, np.zeros(200), labels).p_value < 0.05) is resolves
