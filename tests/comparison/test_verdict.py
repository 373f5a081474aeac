"""What a contrast says where the test set cannot tell."""

from __future__ import annotations

import math

import pytest

from toolkit.comparison.verdict import Evidence, decide, flips_when, sentence


def evidence(clusters: int, resolvable: float = math.inf, difference: float = 0.3, spread: float = 0.1) -> Evidence:
    bounds = (difference - spread, difference + spread)
    return Evidence(difference, bounds, bounds, 0.0625, resolvable, clusters)


def test_too_few_groups_are_named_and_not_a_number_of_examples() -> None:
    found = evidence(5)
    assert decide(found, 0.05, None, smoke=False) == "UNRESOLVED"
    assert "5 independent groups of examples are too few" in sentence("rag", "zero", "f1", "UNRESOLVED", found)
    assert flips_when("zero", "UNRESOLVED", found, 100) == "a test set of more independent groups."


def test_two_that_never_differed_are_not_blamed_on_the_size_of_the_test_set() -> None:
    found = evidence(210, difference=0.0, spread=0.0)
    said = sentence("rag", "zero", "abstention_recall", "UNRESOLVED", found)
    assert said == "rag against zero is unresolved: the two never differed in abstention_recall."
    assert flips_when("zero", "UNRESOLVED", found, 210) == "a larger test set."


def test_what_the_test_set_resolves_is_told_where_it_resolves_anything() -> None:
    found = evidence(40, resolvable=0.4)
    assert sentence("a", "b", "f1", "UNRESOLVED", found).endswith("gap 30.0, this test set resolves 40.0 or more.")
    assert flips_when("b", "UNRESOLVED", found, 100) == "about 178 test examples, if the gap stays what it is."


@pytest.mark.parametrize(("margin", "word"), [(None, "UNRESOLVED"), (0.5, "EQUIVALENT"), (0.35, "UNRESOLVED")])
def test_only_a_declared_margin_makes_two_equivalent(margin: float | None, word: str) -> None:
    assert decide(evidence(40, 0.4), 0.05, margin, smoke=False) == word
