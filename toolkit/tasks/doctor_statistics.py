"""A task in figures: sizes, labels, unanswerable examples, lengths."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from toolkit.errors import DataError
from toolkit.tasks.assemble import SPLITS
from toolkit.tasks.contract import AnswerContract, target_text
from toolkit.tasks.examination import Percentiles, SplitStatistics, Statistics, Subject
from toolkit.tasks.example import Example
from toolkit.tasks.texts import input_text


def statistics(subject: Subject) -> Statistics:
    """Every split in figures; lengths in the model's tokens, or in words where no tokeniser is at hand."""
    renderer = subject.renderer
    if renderer is None or renderer.chat is None:
        splits = {name: _split(subject.split(name), subject.task.contract, _word_count) for name in SPLITS}
        return Statistics("words", splits)
    splits = {name: _split(subject.split(name), subject.task.contract, renderer.count) for name in SPLITS}
    return Statistics("tokens", splits)


def percentiles(lengths: Sequence[int]) -> Percentiles:
    """By nearest rank; 0 where there is nothing to measure."""
    ordered = sorted(lengths) or [0]
    ranks = [max(0, math.ceil(share * len(ordered)) - 1) for share in (0.5, 0.95, 1.0)]
    return Percentiles(*(ordered[rank] for rank in ranks))


def _split(examples: Sequence[Example], contract: AnswerContract, count: Callable[[str], int]) -> SplitStatistics:
    first = Counter(example.targets[0] for example in examples if example.targets and contract.labels)
    answers = [text for example in examples if (text := _answer(contract, example)) is not None]
    return SplitStatistics(
        examples=len(examples),
        groups=len({example.cluster for example in examples}),
        unanswerable=sum(example.targets == () for example in examples) / max(1, len(examples)),
        labels={label: first[label] for label in contract.labels},
        inputs=percentiles([count(input_text(example)) for example in examples]),
        answers=percentiles([count(text) for text in answers]),
    )


def _answer(contract: AnswerContract, example: Example) -> str | None:
    """The trained text; None where there is none, which another check reports."""
    try:
        return target_text(contract, example)
    except DataError:
        return None


def _word_count(text: str) -> int:
    return len(text.split())
