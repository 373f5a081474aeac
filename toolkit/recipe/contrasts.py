"""Baseline and contrasts: the names they use, the defaults, and the list that results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from toolkit.errors import nearest
from toolkit.recipe.document import Document, Place, Problem
from toolkit.recipe.recipe import ContrastSpec
from toolkit.recipe.schema import Contrast
from toolkit.strategies.strategy import Strategy


def default_baseline(strategies: Mapping[str, JsonValue]) -> str | None:
    """The one strategy whose list is empty; None where there is none, or more than one."""
    empty = [name for name, entries in strategies.items() if entries == []]
    return empty[0] if len(empty) == 1 else None


def contrast_problems(document: Document) -> list[Problem]:
    """What is wrong with the names in `baseline` and `contrasts`; wrong types are left to the recipe's schema."""
    written = document.data.get("strategies")
    if not isinstance(written, Mapping):
        return []
    problems = []
    baseline = document.data.get("baseline")
    if isinstance(baseline, str):
        problems += _unknown(document, ("baseline",), baseline, written)
    contrasts = document.data.get("contrasts")
    declared = contrasts if isinstance(contrasts, list) else []
    if baseline is None and not declared and len(written) > 1 and default_baseline(written) is None:
        problems.append(
            document.problem(
                ("baseline",),
                "is missing, and no single strategy has an empty list: name one of "
                f"{', '.join(written)}, or declare `contrasts`",
            )
        )
    pairs: dict[tuple[frozenset[str], JsonValue], int] = {}
    for index, contrast in enumerate(declared):
        if isinstance(contrast, Mapping):
            problems += _in_contrast(document, index, contrast, written, pairs)
    return problems


def assembled(
    declared: Sequence[Contrast], strategies: Sequence[Strategy], baseline: str | None, margin: float | None
) -> tuple[ContrastSpec, ...]:
    """Each candidate against the baseline unless that pair is declared, then the declared contrasts.

    A contrast on a metric other than the primary one is another question and leaves the default one where it is.
    """
    pairs = {frozenset((contrast.a, contrast.b)) for contrast in declared if contrast.metric is None}
    default = [
        ContrastSpec(strategy.name, baseline, (), margin)
        for strategy in strategies
        if baseline is not None
        and strategy.name != baseline
        and not strategy.control
        and frozenset((strategy.name, baseline)) not in pairs
    ]
    return (*default, *(_declared(contrast, margin) for contrast in declared))


def _declared(contrast: Contrast, margin: float | None) -> ContrastSpec:
    inherited = margin if contrast.metric is None else None
    own = inherited if contrast.margin is None else contrast.margin
    return ContrastSpec(contrast.a, contrast.b, contrast.varies, own, contrast.metric)


def _in_contrast(
    document: Document,
    index: int,
    contrast: Mapping[str, JsonValue],
    written: Mapping[str, JsonValue],
    pairs: dict[tuple[frozenset[str], JsonValue], int],
) -> list[Problem]:
    a, b = contrast.get("a"), contrast.get("b")
    problems = []
    for side, name in (("a", a), ("b", b)):
        if isinstance(name, str):
            problems += _unknown(document, ("contrasts", index, side), name, written)
    if not (isinstance(a, str) and isinstance(b, str)):
        return problems
    place: Place = ("contrasts", index)
    metric = contrast.get("metric")
    pair = (frozenset((a, b)), metric if isinstance(metric, str) else None)
    if a == b:
        problems.append(document.problem(place, f"compares '{a}' with itself"))
    elif pair in pairs:
        problems.append(document.problem(place, f"the pair '{a}', '{b}' was declared before, as entry {pairs[pair]}"))
    pairs.setdefault(pair, index)
    return problems


def _unknown(document: Document, place: Place, name: str, written: Mapping[str, JsonValue]) -> list[Problem]:
    if name in written:
        return []
    known = ", ".join(written) or "none"
    return [document.problem(place, f"there is no strategy '{name}'{nearest(name, written)}; strategies: {known}")]
