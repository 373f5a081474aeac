"""The answer contract and the metrics that a task's keys ask for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from toolkit.tasks.contract import AnswerContract, ChoiceContract, JsonContract, TextContract
from toolkit.tasks.example import Example
from toolkit.tasks.schema import AnswerKeys


def contract_of(keys: AnswerKeys, train: Iterable[Example]) -> AnswerContract:
    """The contract; a choice task that names no labels takes them, sorted, from train.

    Raises:
        DataError: labels that are written alike, or `labels.write` for a label the task does not have.
    """
    # A key left out leaves the contract's own default in force.
    given: dict[str, Any] = {} if keys.question is None else {"question": keys.question}
    if keys.kind == "text":
        return TextContract(abstention=keys.abstention, **given)
    if keys.kind == "json":
        return JsonContract(required=keys.required, abstention=keys.abstention, **given)
    names = keys.labels.names if keys.labels.names is not None else labels_in(train)
    return ChoiceContract(labels=names, written=keys.labels.write, abstention=keys.abstention, **given)


def labels_in(examples: Iterable[Example]) -> tuple[str, ...]:
    """Every text that is a target, sorted."""
    return tuple(sorted({target for item in examples for target in item.targets or () if isinstance(target, str)}))


def metrics_of(keys: AnswerKeys) -> tuple[str, ...]:
    """The metrics named, or those of the kind; the first is the primary one."""
    if keys.metrics is not None:
        return keys.metrics
    if keys.kind == "choice":
        return ("accuracy", "macro_f1")
    if keys.kind == "json":
        return ("exact_match", "json_validity")
    names = ("token_f1", "contains", "exact_match", "answered_contains")
    return names if keys.abstention is None else (*names, "abstention_precision", "abstention_recall")
