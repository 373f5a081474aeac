"""Metric: how one output is scored, and how scores add up to a system's figure.

A metric gives each example a value and additive statistics. A system's figure is `aggregate` of the statistics' sum, so
resampling examples is a sum over other rows, for means and for figures such as macro F1 alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from toolkit.errors import DataError, nearest
from toolkit.tasks.contract import AnswerContract, Kind
from toolkit.tasks.example import Answer, Example
from toolkit.tasks.output import Output

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

EVERY_KIND: tuple[Kind, ...] = ("choice", "text", "json")
NO_ANSWER = frozenset({"unparsable", "error"})
"""Statuses that score the worst value in every metric of answers."""

Judge = Callable[[Example, Output, AnswerContract], float]
Condition = Callable[[Example, Output, AnswerContract], bool]


@dataclass(frozen=True)
class Scored:
    """One example's value and its additive statistics [k]."""

    value: float
    statistics: tuple[float, ...]


class Metric(Protocol):
    """How outputs are scored.

    Attributes:
        name, version: what is measured; the version rises when the definition changes.
        kinds: the answer contracts it can be used with; `needs_abstention` narrows them to those that can abstain.
        is_mean: whether the figure is the mean of the values over the examples it applies to.
        bounds: lowest and highest value.
        worst: the value of errors and unparsable answers, and of a figure without a denominator.
        informational: a description that ranks nothing, so it cannot be primary.
        of_retrieval: applies only to strategies that retrieve; for these, to every example with gold spans.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def kinds(self) -> tuple[Kind, ...]: ...

    @property
    def needs_abstention(self) -> bool: ...

    @property
    def is_mean(self) -> bool: ...

    @property
    def bounds(self) -> tuple[float, float]: ...

    @property
    def worst(self) -> float: ...

    @property
    def higher_is_better(self) -> bool: ...

    @property
    def informational(self) -> bool: ...

    @property
    def of_retrieval(self) -> bool: ...

    def applies(self, example: Example, output: Output, contract: AnswerContract) -> bool:
        """Whether this example is scored at all; where it is not, the row is absent."""

    def score(self, example: Example, output: Output, contract: AnswerContract) -> Scored:
        """The value and statistics of one labelled example that the metric applies to."""

    def aggregate(self, sums: Floats) -> Floats:
        """Figures [...] of summed statistics [..., k]."""


def is_labelled(example: Example, output: Output, contract: AnswerContract) -> bool:
    """Whether the right answer is known; an empty list of targets is known: it asks for abstention."""
    return example.targets is not None


def is_answerable(example: Example, output: Output, contract: AnswerContract) -> bool:
    """Whether there is a right answer other than to abstain."""
    return bool(example.targets)


def always(example: Example, output: Output, contract: AnswerContract) -> bool:
    return True


@dataclass(frozen=True)
class MeanMetric:
    """The mean of a value over the examples for which `condition` holds. Statistics: value, 1.

    `of_answers`: an error or unparsable output scores the worst value without being judged.
    """

    name: str
    judge: Judge
    condition: Condition = is_labelled
    kinds: tuple[Kind, ...] = EVERY_KIND
    of_answers: bool = True
    version: str = "1"
    needs_abstention: bool = False
    is_mean: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    worst: float = 0.0
    higher_is_better: bool = True
    informational: bool = False
    of_retrieval: bool = False

    def applies(self, example: Example, output: Output, contract: AnswerContract) -> bool:
        return self.condition(example, output, contract)

    def score(self, example: Example, output: Output, contract: AnswerContract) -> Scored:
        failed = self.of_answers and output.status in NO_ANSWER
        value = self.worst if failed else self.judge(example, output, contract)
        return Scored(value, (value, 1.0))

    def aggregate(self, sums: Floats) -> Floats:
        return _ratio(sums[..., 0], sums[..., 1], self.worst)


@dataclass(frozen=True)
class MacroF1:
    """Mean F1 over the labels that occur among the right answers or the predictions.

    An example's value is whether it is right. Statistics: true positives, false positives and false negatives of each
    label in the contract's order, [3 * labels]. Of several targets, the one predicted counts, or else the first. An
    error, an unparsable answer and an abstention predict no label; an example to abstain from has no right label.
    """

    name: str = "macro_f1"
    version: str = "1"
    kinds: tuple[Kind, ...] = ("choice",)
    needs_abstention: bool = False
    is_mean: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)
    worst: float = 0.0
    higher_is_better: bool = True
    informational: bool = False
    of_retrieval: bool = False

    def applies(self, example: Example, output: Output, contract: AnswerContract) -> bool:
        return is_labelled(example, output, contract)

    def score(self, example: Example, output: Output, contract: AnswerContract) -> Scored:
        """Raises DataError for a target that is not one of the contract's labels."""
        targets = [_label_place(target, example, contract) for target in example.targets or ()]
        predicted = None
        if output.status == "answered" and output.answer in contract.labels:
            predicted = contract.labels.index(str(output.answer))
        cells = [0.0] * (3 * len(contract.labels))
        if predicted is not None and predicted in targets:
            cells[3 * predicted] = 1.0
            return Scored(1.0, tuple(cells))
        if predicted is not None:
            cells[3 * predicted + 1] = 1.0
        if targets:
            cells[3 * targets[0] + 2] = 1.0
        return Scored(float(not targets and output.status == "abstained"), tuple(cells))

    def aggregate(self, sums: Floats) -> Floats:
        import numpy as np

        cells = np.asarray(sums).reshape(*sums.shape[:-1], -1, 3)
        denominators = 2 * cells[..., 0] + cells[..., 1] + cells[..., 2]
        scores = _ratio(2 * cells[..., 0], denominators, 0.0)
        occurring: Floats = np.sum(denominators > 0, axis=-1, dtype=np.float64)
        return _ratio(scores.sum(axis=-1), occurring, self.worst)


@dataclass(frozen=True)
class AbstentionRate:
    """Precision or recall of abstaining. An example's value is whether abstaining or not was the right decision.

    Statistics: right abstentions, and abstentions (`of="abstained"`: precision) or examples that ask for one
    (`of="unanswerable"`: recall). An error or an unparsable answer is no abstention and a wrong decision.
    """

    name: str
    of: Literal["abstained", "unanswerable"]
    version: str = "1"
    kinds: tuple[Kind, ...] = EVERY_KIND
    needs_abstention: bool = True
    is_mean: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)
    worst: float = 0.0
    higher_is_better: bool = True
    informational: bool = False
    of_retrieval: bool = False

    def applies(self, example: Example, output: Output, contract: AnswerContract) -> bool:
        return contract.abstention is not None and is_labelled(example, output, contract)

    def score(self, example: Example, output: Output, contract: AnswerContract) -> Scored:
        abstained, unanswerable = output.status == "abstained", not example.targets
        counted = abstained if self.of == "abstained" else unanswerable
        right = output.status not in NO_ANSWER and abstained == unanswerable
        value = 1.0 if right else self.worst
        return Scored(value, (float(abstained and unanswerable), float(counted)))

    def aggregate(self, sums: Floats) -> Floats:
        return _ratio(sums[..., 0], sums[..., 1], self.worst)


def _ratio(numerators: Floats, denominators: Floats, otherwise: float) -> Floats:
    """numerators / denominators [...], `otherwise` where the denominator is zero."""
    import numpy as np

    ratios: Floats = np.full(np.shape(numerators), otherwise, dtype=np.float64)
    np.divide(numerators, denominators, out=ratios, where=np.asarray(denominators) != 0)
    return ratios


def _label_place(target: Answer, example: Example, contract: AnswerContract) -> int:
    if not isinstance(target, str) or target not in contract.labels:
        raise DataError(
            f"example '{example.id}': the target {target!r} is not one of the task's labels"
            f"{nearest(str(target), contract.labels)}"
        )
    return contract.labels.index(target)
