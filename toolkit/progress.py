"""How a training goes, in words: what it will take, how fast it is, how long is left, what validation says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from toolkit.terminal import duration, gigabytes, large, percent

RECENT_REPORTS = 20
"""The speed is that of so many reports: batches differ in length, and that of one of them says little."""


class Pace:
    """The speed of a training and the time left, from its reports.

    The first report only starts the measure: a first step warms up, and so does the first after a resumption. What
    passes between steps (validation, checkpoints) is spread over all of them, so that the time left does not jump at
    every look at validation.
    """

    def __init__(self) -> None:
        self._before: tuple[float, int] | None = None
        self._recent: deque[tuple[int, int, float]] = deque(maxlen=RECENT_REPORTS)
        self._between, self._steps = 0.0, 0

    def report(self, step: int, tokens: int, now: float, seconds: float | None = None) -> None:
        """Steps up to `step` are done, of `tokens` since the report before.

        Args:
            now: of any clock, in seconds.
            seconds: what those steps took; None is all that passed since the report before.
        """
        if self._before is not None:
            passed, steps = max(now - self._before[0], 1e-9), step - self._before[1]
            taken = passed if seconds is None else seconds
            self._recent.append((steps, tokens, taken))
            self._between += max(0.0, passed - taken)
            self._steps += steps
        self._before = (now, step)

    @property
    def tokens_per_second(self) -> float | None:
        """None before the second report."""
        seconds = sum(taken for _, _, taken in self._recent)
        return sum(tokens for _, tokens, _ in self._recent) / seconds if seconds else None

    def seconds_left(self, steps: int) -> float | None:
        """For so many more steps. None before the second report."""
        recent = sum(count for count, _, _ in self._recent)
        if not recent:
            return None
        return steps * (sum(taken for _, _, taken in self._recent) / recent + self._between / self._steps)


class TrainingProgress:
    """One training's events in words. Fields that an adapter does not tell of are left out.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pace = Pace()
        self._step = 0
        self._supervised = 0

    def step(self, fields: Mapping[str, Any]) -> str:
        """`loss 1.234, 24 s left, 1,830 tokens/s, 1.4 GB, 9,120 supervised tokens`: what matters most comes first."""
        step, steps = int(fields["step"]), int(fields["steps"])
        if step <= self._step:  # another training of the same part
            self._pace, self._supervised = Pace(), 0
        self._step = step
        self._pace.report(step, int(fields["tokens"]), self._clock(), fields.get("seconds"))
        self._supervised += int(fields.get("supervised_tokens", 0))
        said = [f"loss {fields['loss']:.3f}"]
        left, speed = self._pace.seconds_left(steps - step), self._pace.tokens_per_second
        said += [f"{duration(left)} left"] if left else []
        said += [f"{speed:,.0f} tokens/s"] if speed is not None else []
        said += [gigabytes(fields["memory_bytes"])] if fields.get("memory_bytes") else []
        said += [f"{self._supervised:,} supervised tokens"] if self._supervised else []
        return ", ".join(said)


def forecast(fields: Mapping[str, Any]) -> str:
    """`4.9 M of 139 M parameters are trained, 120 steps up to a rate of 0.001, 9 % supervised; about 50 s`."""
    trained = f"{large(fields['trainable_parameters'])} of {large(fields['total_parameters'])} parameters are trained"
    rate = f" up to a rate of {fields['learning_rate']:.2g}" if fields.get("learning_rate") is not None else ""
    said = f"{trained}, {fields['steps']:,} steps{rate}, {percent(fields['supervised_share'])} of tokens supervised"
    cost = [duration(fields["seconds"])] if fields.get("seconds") is not None else []
    cost += [gigabytes(fields["memory_bytes"])] if fields.get("memory_bytes") is not None else []
    said += f"; about {' and '.join(cost)}" if cost else ""
    return said + ("; activations are recomputed to save memory" if fields.get("recompute") else "")


def validated(fields: Mapping[str, Any]) -> str:
    """`step 20 of 120: validation token_f1 0.512, the best so far`."""
    best = ", the best so far" if fields.get("best") else ""
    return f"step {fields['step']:,} of {fields['steps']:,}: validation {fields['metric']} {fields['value']:.3f}{best}"
