"""A run's events for trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toolkit.tracking.feed import Feed
from toolkit.tracking.tracker import TrackedRun
from toolkit.tracking.values import of_forecast, of_step, of_validation

_Logged = tuple[int, dict[str, float]]
_VALUES = {"forecast": of_forecast, "train": of_step, "validated": of_validation}


class TrainingEvents:
    """A listener that passes on what events say of trainings; one of another shape, of anyone's adapter, says nothing.

    Args:
        described: the run that a strategy and a seed are.
    """

    def __init__(self, feed: Feed, described: Callable[[str, int | None], TrackedRun]) -> None:
        self._feed, self._described = feed, described

    def __call__(self, name: str, fields: Mapping[str, Any]) -> None:
        if name == "strategy":
            self._feed.start(self._described(fields["strategy"], fields["seed"]))
        elif name in _VALUES:
            step, values = _read(_VALUES[name], fields)
            self._feed.log(step - (name == "forecast"), values)  # a look where the training stands may still come


def _read(values_of: Callable[[Mapping[str, Any]], dict[str, float]], fields: Mapping[str, Any]) -> _Logged:
    try:
        return int(fields["step"]), values_of(fields)
    except (KeyError, TypeError, ValueError):
        return 0, {}
