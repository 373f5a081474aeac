"""Verdict: what one contrast says, in a word, a sentence, and what would flip it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Word = Literal["BETTER", "WORSE", "EQUIVALENT", "UNRESOLVED", "SMOKE"]


@dataclass(frozen=True)
class Evidence:
    """A contrast a - b as measured: differences and bounds in the metric's unit.

    `interval` is the 95 % one, `equivalence` the 90 % one (two one-sided 5 % tests); `clusters` counts groups of
    examples that are independent of each other.
    """

    difference: float
    interval: tuple[float, float]
    equivalence: tuple[float, float]
    p_holm: float
    resolvable_difference: float
    clusters: int

    @property
    def never_differed(self) -> bool:
        """Nothing differed anywhere, which says nothing of what would be found if it did."""
        return self.difference == 0 and self.interval == (0, 0) and not math.isfinite(self.resolvable_difference)


def decide(evidence: Evidence, alpha: float, margin: float | None, smoke: bool) -> Word:
    """BETTER or WORSE: Holm p below alpha and the interval on one side of 0. EQUIVALENT: only with a declared margin,
    the 90 % interval inside it (TOST). Otherwise UNRESOLVED; a smoke run decides nothing."""
    if smoke:
        return "SMOKE"
    low, high = evidence.interval
    if evidence.p_holm < alpha and low > 0:
        return "BETTER"
    if evidence.p_holm < alpha and high < 0:
        return "WORSE"
    if margin is not None and -margin < evidence.equivalence[0] and evidence.equivalence[1] < margin:
        return "EQUIVALENT"
    return "UNRESOLVED"


def sentence(a: str, b: str, metric: str, word: Word, evidence: Evidence) -> str:
    """One plain sentence for a reader in a hurry."""
    gap = f"{points(abs(evidence.difference))} points of {metric}"
    low, high = (points(bound) for bound in evidence.interval)
    if word == "BETTER":
        return f"{a} beats {b} by {gap} [{low}, {high}]."
    if word == "WORSE":
        return f"{a} loses to {b} by {gap} [{low}, {high}]."
    if word == "EQUIVALENT":
        return f"{a} and {b} are equivalent within the declared margin (difference [{low}, {high}])."
    if word == "SMOKE":
        return f"{a} against {b}: a smoke run on a sample; it shows that things work and decides nothing."
    if evidence.never_differed:
        return f"{a} against {b} is unresolved: the two never differed in {metric}."
    if not math.isfinite(evidence.resolvable_difference):
        return (
            f"{a} against {b} is unresolved: {evidence.clusters} independent groups of examples are too few to resolve "
            "any difference."
        )
    least = points(evidence.resolvable_difference)
    return f"{a} against {b} is unresolved: gap {points(evidence.difference)}, this test set resolves {least} or more."


def flips_when(b: str, word: Word, evidence: Evidence, n: int) -> str:
    """What would change the verdict."""
    low, high = evidence.interval
    if word == "BETTER":
        return f"{b} gaining {points(low)} points, the lower end of the interval."
    if word == "WORSE":
        return f"{b} losing {points(-high)} points, the upper end of the interval."
    if word == "UNRESOLVED" and evidence.difference and math.isfinite(evidence.resolvable_difference):
        needed = n * (evidence.resolvable_difference / abs(evidence.difference)) ** 2
        return f"about {max(n + 1, round(needed)):,} test examples, if the gap stays what it is."
    if word == "EQUIVALENT":
        return "a smaller margin."
    if word == "SMOKE":
        return "a run on the whole test set."
    return "a larger test set." if evidence.never_differed else "a test set of more independent groups."


def points(value: float) -> str:
    """A share as points with one decimal."""
    return f"{100 * value:+.1f}" if value < 0 else f"{100 * value:.1f}"
