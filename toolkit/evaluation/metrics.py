"""The metrics by name: what counts as right for each kind of answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from toolkit.errors import DataError, listing, nearest
from toolkit.evaluation import text
from toolkit.evaluation.metric import (
    NO_ANSWER,
    AbstentionRate,
    Judge,
    MacroF1,
    MeanMetric,
    Metric,
    always,
    is_answerable,
)
from toolkit.tasks.contract import AnswerContract
from toolkit.tasks.example import Answer, Example
from toolkit.tasks.output import Output


def same_json(one: Answer, other: Answer) -> bool:
    """Whether two JSON values are equal: 1 equals 1.0, true is no number, objects have no order and arrays do."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return one == other


def _best_over_targets(compare: Callable[[Output, Answer, AnswerContract], float]) -> Judge:
    """The best match over the targets; abstaining is right exactly where there is no target."""

    def judge(example: Example, output: Output, contract: AnswerContract) -> float:
        abstained = output.status == "abstained"
        if abstained or not example.targets:
            return float(abstained and not example.targets)
        return max(compare(output, target, contract) for target in example.targets)

    return judge


def _same_label(output: Output, target: Answer, contract: AnswerContract) -> float:
    return float(output.answer == target)


def _same_answer(output: Output, target: Answer, contract: AnswerContract) -> float:
    if contract.kind == "json":
        return float(same_json(output.answer, target))
    return float(text.normalised(_text_answer(output)) == text.normalised(_text_target(output, target)))


def _shared_tokens(output: Output, target: Answer, contract: AnswerContract) -> float:
    return text.token_f1(_text_answer(output), _text_target(output, target))


def _contained(output: Output, target: Answer, contract: AnswerContract) -> float:
    """In all the model said, or in the answer where a part gave one without text."""
    return float(text.contains(output.text or _text_answer(output), _text_target(output, target)))


def _text_answer(output: Output) -> str:
    if not isinstance(output.answer, str):
        raise DataError(
            f"example '{output.example_id}': a text answer must be a text, the output has {output.answer!r}"
        )
    return output.answer


def _text_target(output: Output, target: Answer) -> str:
    if not isinstance(target, str):
        raise DataError(f"example '{output.example_id}': a text target must be a text, found {target!r}")
    return target


def _has_gold(example: Example, output: Output, contract: AnswerContract) -> bool:
    return bool(example.spans)


def _was_generated(example: Example, output: Output, contract: AnswerContract) -> bool:
    return output.termination in ("stop", "length")


def _recall(example: Example, output: Output, contract: AnswerContract) -> float:
    from toolkit.retrieval.spans import recall_at_k

    if not output.retrieved:
        return 0.0
    return recall_at_k(_retrieved(output), _gold(example), k=len(output.retrieved))


def _reciprocal_rank(example: Example, output: Output, contract: AnswerContract) -> float:
    from toolkit.retrieval.spans import reciprocal_rank

    return reciprocal_rank(_retrieved(output), _gold(example))


def _retrieved(output: Output) -> list[tuple[str, int, int]]:
    """Every passage, used or dropped to fit the context, best first."""
    ranked = sorted(output.retrieved, key=lambda passage: passage.rank)
    return [(passage.document, passage.start, passage.end) for passage in ranked]


def _gold(example: Example) -> list[tuple[str, int, int]]:
    return [(span.document, span.start, span.end) for span in example.spans]


_LABEL = _best_over_targets(_same_label)
_EXACT = _best_over_targets(_same_answer)
_TOKENS = _best_over_targets(_shared_tokens)
_CONTAINED = _best_over_targets(_contained)

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "accuracy": MeanMetric("accuracy", _LABEL, kinds=("choice",)),
        "macro_f1": MacroF1(),
        "exact_match": MeanMetric("exact_match", _EXACT, kinds=("text", "json")),
        "token_f1": MeanMetric("token_f1", _TOKENS, kinds=("text",)),
        "contains": MeanMetric("contains", _CONTAINED, kinds=("text",)),
        "answered_contains": MeanMetric("answered_contains", _CONTAINED, is_answerable, ("text",)),
        "answerable_f1": MeanMetric("answerable_f1", _TOKENS, is_answerable, ("text",)),
        "abstention_precision": AbstentionRate("abstention_precision", of="abstained"),
        "abstention_recall": AbstentionRate("abstention_recall", of="unanswerable"),
        "json_validity": MeanMetric(
            "json_validity", lambda _, output, __: float(output.status == "answered"), always, ("json",)
        ),
        "recall_at_k": MeanMetric("recall_at_k", _recall, _has_gold, of_answers=False, of_retrieval=True),
        "mrr": MeanMetric("mrr", _reciprocal_rank, _has_gold, of_answers=False, of_retrieval=True),
        "parsed": MeanMetric("parsed", lambda _, output, __: float(output.status not in NO_ANSWER), always),
        "answer_tokens": MeanMetric(
            "answer_tokens",
            lambda _, output, __: float(output.usage.completion_tokens),
            _was_generated,
            of_answers=False,
            bounds=(0.0, math.inf),
            informational=True,
        ),
    }
)
"""Every metric by name. `recall_at_k` and `mrr` measure whatever was retrieved, whether or not it was then answered."""

SECONDARY = ("recall_at_k", "mrr", "parsed")
"""Measured wherever they apply, asked for or not."""


def metrics_for(names: Sequence[str], contract: AnswerContract) -> tuple[Metric, ...]:
    """The named metrics, the primary one first, then the secondary ones not named.

    Raises:
        DataError: no name, an unknown or repeated one, one that cannot be used with the contract, or a primary metric
            that ranks nothing. All problems at once.
    """
    problems = [problem for name in dict.fromkeys(names) for problem in _problems(name, contract)]
    problems += [f"'{name}' is named more than once" for name in dict.fromkeys(names) if names.count(name) > 1]
    if not names:
        problems.append(f"none is named; for {contract.kind} tasks: {', '.join(_usable(contract))}")
    elif names[0] in METRICS and METRICS[names[0]].informational:
        problems.append(f"'{names[0]}' ranks nothing, so it cannot be the first, primary metric")
    if problems:
        raise DataError(listing(problems, "metrics"))
    return tuple(METRICS[name] for name in dict.fromkeys((*names, *SECONDARY)))


def _problems(name: str, contract: AnswerContract) -> list[str]:
    usable = _usable(contract)
    if name not in METRICS:
        return [f"unknown metric '{name}'{nearest(name, METRICS)}; for {contract.kind} tasks: {', '.join(usable)}"]
    if name not in usable:
        return [f"'{name}' does not suit {contract.kind} answers; allowed: {', '.join(usable)}"]
    if METRICS[name].needs_abstention and contract.abstention is None:
        return [f"'{name}' needs a task that can abstain: add `abstention:`"]
    return []


def _usable(contract: AnswerContract) -> list[str]:
    return [known for known, metric in METRICS.items() if contract.kind in metric.kinds]
