"""A contrast seen from one of its two sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toolkit.report.figures import Bounds
from toolkit.report.read import Record

_OTHER_WAY = {"BETTER": "WORSE", "WORSE": "BETTER"}


@dataclass(frozen=True)
class Side:
    """strategy - against, in the metric's unit; `word` is None where the contrast was refused."""

    strategy: str
    against: str
    difference: float | None
    interval: Bounds
    p_holm: float | None
    word: str | None
    resolvable: float | None
    refused: str | None


def seen_from(contrast: Record, strategy: str) -> Side:
    """The contrast with `strategy` first, turned round where it was declared the other way."""
    low, high = contrast["interval"]
    difference, word = contrast["difference"], contrast["verdict"]
    shared = (contrast["p_holm"], contrast["resolvable_difference"], contrast["refused"])
    if contrast["a"] == strategy:
        return Side(strategy, contrast["b"], difference, (low, high), shared[0], word, *shared[1:])
    turned = (None if high is None else -high, None if low is None else -low)
    opposite = None if difference is None else -difference
    return Side(strategy, contrast["a"], opposite, turned, shared[0], _OTHER_WAY.get(word, word), *shared[1:])


def between(comparison: Record, strategy: str, against: str | None) -> Side | None:
    """The contrast of two strategies on the primary metric; None where none was declared."""
    for contrast in comparison["contrasts"]:
        if contrast["metric"] == comparison["metric"] and {contrast["a"], contrast["b"]} == {strategy, against}:
            return seen_from(contrast, strategy)
    return None


def verdict(contrast: Mapping[str, object]) -> str:
    """The word, or `refused`."""
    word = contrast["verdict"]
    return "refused" if word is None else str(word)
