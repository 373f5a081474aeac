"""What stands out in a training, one sentence each. Each says what was seen; what it may mean is for the reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import hypot, sqrt
from statistics import fmean, stdev

from toolkit.report import figures
from toolkit.report.trainings import Training

PART_SHARE, FEWEST_STEPS = 1 / 5, 4
"""Two parts of a training are compared: each a fifth of its steps, four at least."""

STANDARD_ERRORS = 2.0
"""So far two parts' means must be apart: single losses differ by their batches."""

NOTABLE_SHARE = 0.05
"""Of a loss: a smaller change is not worth a sentence."""

DIVERGED = 1.5
"""Times the first loss: where even the lowest of the last losses is above it, it rose before the first part ended."""

OVERFITTING_SHARE = 0.8
"""Of the loss where validation was best: below it, the training went on without validation."""

ENGINES = {
    "by hand": "fast step",
    "packed, through autograd": "autograd, packed",
    "padded, through autograd": "autograd, padded",
}
"""What computed the steps, in a reader's words."""

_ROWS = {
    "packed, through autograd": "rows without padding",
    "padded, through autograd": "padded rows",
}


def remarks(training: Training, metric: str) -> Iterator[str]:
    """Sentences on a training, without its name."""
    yield from _of_the_end(training)
    yield from _of_validation(training, metric)
    yield from _of_the_step(training)


def engine(training: Training) -> tuple[str, str]:
    """What computed the steps, as its name in the engine's words and why it was nothing faster."""
    name, _, reason = training.how.partition(": ")
    return name, reason


def _of_the_end(training: Training) -> Iterator[str]:
    """Of a loss that ends above its start, or that was still falling where that state was kept."""
    count = max(FEWEST_STEPS, round(PART_SHARE * training.steps))
    if training.steps < 2 * count:
        return
    start, before, last = (training.losses[:count], training.losses[-2 * count : -count], training.losses[-count:])
    first = training.losses[0]  # of the untrained model: a step's loss is computed before it is taken
    if fmean(last) > first and (_falls(last, start) or min(last) > DIVERGED * first):
        yield (
            f"the loss ended above where it began ({_mean(last)} over the last {count} steps, {figures.loss(first)} at "
            "the first): the learning rate may be too high."
        )
    elif training.kept_step in (None, training.steps) and _falls(before, last):
        yield (
            f"the loss was still falling at the last step ({_mean(last)} over the last {count} steps, {_mean(before)} "
            "over those before): more steps would lower it further; whether answers gain by it, only validation tells."
        )


def _of_validation(training: Training, metric: str) -> Iterator[str]:
    """Of a training that brought nothing on validation, or went on learning when validation no longer did."""
    if not training.looks or training.kept_step is None:
        return
    values = dict(training.looks)
    best, kept, name = values.get(training.kept_step), training.kept_step, figures.plain(metric)
    if kept == 0:
        yield (
            f"no state did better on validation than the untrained one ({name} {figures.amount(best, metric)}), which "
            "is what answers: training did not help."
        )
        return
    step, value = training.looks[-1]
    count = max(FEWEST_STEPS, round(PART_SHARE * training.steps))
    around, last = training.losses[max(0, kept - count) : kept], training.losses[-count:]
    if best is None or value >= best or step - kept < count or fmean(last) >= OVERFITTING_SHARE * fmean(around):
        return
    yield (
        f"after step {kept:,}, where {name} on validation was best ({figures.amount(best, metric)}), the loss fell on "
        f"from {_mean(around)} to {_mean(last)} and validation gained nothing by it ({figures.amount(value, metric)} "
        f"at the end), which is what overfitting looks like; what answers is the state of step {kept:,}."
    )


def _of_the_step(training: Training) -> Iterator[str]:
    name, reason = engine(training)
    if name not in _ROWS:
        return
    why = f" ({reason})" if reason else ""
    yield f"the fast step could not be used{why}: its steps went through autograd, on {_ROWS[name]}."


def _falls(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the mean of losses falls by more than single losses differ, and by more than a trifle."""
    fall = fmean(before) - fmean(after)
    error = hypot(*(stdev(losses) / sqrt(len(losses)) for losses in (before, after)))
    return fall > max(STANDARD_ERRORS * error, NOTABLE_SHARE * abs(fmean(before)))


def _mean(losses: Sequence[float]) -> str:
    return figures.loss(fmean(losses))
