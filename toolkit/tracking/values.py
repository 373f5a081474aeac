"""What an event or a report says, as named numbers. The names are the same for every tracker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

TRAINED = (
    "loss",
    "learning_rate",
    "gradient_norm",
    "tokens",
    "supervised_tokens",
    "seconds",
    "memory_bytes",
)
"""Of a step, as `train/<name>`; those that an adapter does not tell of are left out."""

FORECAST = ("seconds", "memory_bytes")
"""Of a forecast, as `forecast/<name>`."""

_LOOK = "validation/"


class StepReport(Protocol):
    """What `train` tells after each step.

    Attributes:
        step: from 1, of `steps`.
        loss: nats a token.
        tokens, supervised_tokens: of this step; padding is in neither.
        seconds: this step took.
        memory_bytes: the largest so far, of the process or of the device.
    """

    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def tokens(self) -> int: ...
    @property
    def supervised_tokens(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def gradient_norm(self) -> float: ...
    @property
    def seconds(self) -> float: ...
    @property
    def memory_bytes(self) -> int: ...


def of_step(fields: Mapping[str, Any]) -> dict[str, float]:
    """`train/...` of a step: its figures and the tokens a second. What is no finite number is left out."""
    values = {f"train/{name}": float(fields[name]) for name in TRAINED if _is_number(fields.get(name))}
    tokens, seconds = values.get("train/tokens"), values.get("train/seconds")
    if tokens is not None and seconds:
        values["train/tokens_per_second"] = tokens / seconds
    return values


def of_report(report: StepReport) -> dict[str, float]:
    """The same of a report."""
    return of_step({name: getattr(report, name) for name in TRAINED})


def of_forecast(fields: Mapping[str, Any]) -> dict[str, float]:
    """`forecast/...`: what a training is expected to take from a step on."""
    return {f"forecast/{name}": float(fields[name]) for name in FORECAST if _is_number(fields.get(name))}


def of_validation(fields: Mapping[str, Any]) -> dict[str, float]:
    """`validation/<metric>` of a look at validation."""
    return {f"{_LOOK}{fields['metric']}": float(fields["value"])} if _is_number(fields["value"]) else {}


def is_look(values: Mapping[str, float]) -> bool:
    """Whether nothing but a look at validation is told: of a state whose step was taken, and told, before."""
    return all(name.startswith(_LOOK) for name in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
