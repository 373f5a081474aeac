"""The fairness contract: refusals with their reasons. See the design's eight points; each function names its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from toolkit.errors import FairnessError, listing
from toolkit.rendering import Draft, Renderer, Template
from toolkit.rendering.fit import fitted
from toolkit.tasks.example import Example
from toolkit.tasks.task import Task


@dataclass(frozen=True)
class FactorSheet:
    """Point 1: what a strategy runs under besides what its parts own."""

    model: str
    dtype: str
    decoding: str
    answer_by: str
    template: str


def undeclared_factors(a: FactorSheet, b: FactorSheet, varies: Sequence[str]) -> list[str]:
    """Factors in which two strategies differ although the contrast does not say so."""
    left, right = asdict(a), asdict(b)
    return [name for name in left if left[name] != right[name] and name not in varies]


def check_contrast(a: str, b: str, sheets: Mapping[str, FactorSheet], varies: Sequence[str]) -> None:
    """Point 1. Raises FairnessError unless only what the stacks' parts own, or what is declared, differs."""
    different = undeclared_factors(sheets[a], sheets[b], varies)
    if different:
        found = "; ".join(
            f"{name}: {getattr(sheets[a], name)} against {getattr(sheets[b], name)}" for name in different
        )
        raise FairnessError(
            f"contrast {a} - {b} is refused: the two differ in {', '.join(different)} ({found}), which no part of "
            f"either stack owns; make them equal, or declare `varies: [{', '.join(different)}]` to compare systems"
        )


def check_splits(task: Task) -> None:
    """Point 4: splits disjoint by id and content, and by group unless the task says why not.

    Raises:
        FairnessError: all clashes found (the first ten are named).
    """
    problems: list[str] = []
    by_content: dict[str, list[tuple[str, Example]]] = defaultdict(list)
    by_group: dict[str, set[str]] = defaultdict(set)
    for name, examples in (("train", task.train), ("validation", task.validation), ("test", task.test)):
        for example in examples:
            by_content[example.content_digest].append((name, example))
            if example.group is not None:
                by_group[example.group].add(name)
    for places in by_content.values():
        if len({split for split, _ in places}) > 1:
            said = ", ".join(f"{split} '{example.id}'" for split, example in places)
            problems.append(f"the same inputs stand in {said}")
    if task.shared_groups is None:
        for group, splits in by_group.items():
            if len(splits) > 1:
                where = ", ".join(sorted(splits))
                problems.append(f"group '{group}' is in {where}: split by group, or declare `shared_groups: why`")
    if problems:
        more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise FairnessError(listing(problems[:10] + more, f"task '{task.name}': its splits are not disjoint"))


def check_lengths(
    examples: Sequence[Example], task: Task, template: Template, renderer: Renderer, budget_tokens: int | None
) -> None:
    """Point 5: everything is rendered before any model call; what cannot fit even bare is refused.

    Raises:
        OverLengthError: instruction and inputs of an example exceed the budget.
    """
    if budget_tokens is None:
        return
    for example in examples:
        fitted(Draft(example.unlabelled(), template, task.contract), renderer, budget_tokens)


def check_trials(a: str, b: str, trials: Mapping[str, int], why_unequal: str | None) -> str | None:
    """Point 6: the reason to refuse a contrast whose sides had unequal tuning effort; None if it may stand."""
    if trials[a] == trials[b] or why_unequal is not None:
        return None
    return (
        f"{a} made {trials[a]} trials on validation and {b} made {trials[b]}; give both the same number, or say in the "
        "recipe `unequal_trials: why`"
    )


def check_trials_ahead(a: str, b: str, trying: Collection[str], why_unequal: str | None) -> None:
    """Point 6 before anything is computed. Raises FairnessError where only one of the two will make trials at all."""
    if (a in trying) == (b in trying) or why_unequal is not None:
        return
    tries, plain = (a, b) if a in trying else (b, a)
    raise FairnessError(
        f"contrast {a} - {b} is refused: {tries} will make trials on validation and {plain} none; let both make as "
        "many, or say in the recipe `unequal_trials: why`"
    )


def check_base(before: str, after: str, strategy: str) -> None:
    """Point 7. Raises FairnessError when the base model's bytes, modules, modes or gradients are not what they were."""
    if before != after:
        raise FairnessError(
            f"strategy '{strategy}' changed the base model's weights, modules, train mode or requires_grad in place: "
            "every other strategy would be measured on another model; adapt a view (`model.adapted`) or a copy"
        )
