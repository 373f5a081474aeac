"""A run's events for trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toolkit.tracking.feed import Feed
from toolkit.tracking.tracker import TrackedRun
from toolkit.tracking.values import of_forecast, of_step, of_validation

_Logged = tuple[int, dict[str, float]]
_VALUES = {"train": of_step, "validated": of_validation}


class TrainingEvents:
    """A listener that passes on what events say of trainings; one of another shape, of anyone's adapter, says nothing.

    A forecast is of the steps that come and is passed on with the first of them: a look at validation where the
    training stands comes earlier, and behind the forecast it would pass for a training that went back.

    Args:
        described: the run that a strategy and a seed are.
    """

    def __init__(self, feed: Feed, described: Callable[[str, int | None], TrackedRun]) -> None:
        self._feed, self._described = feed, described
        self._forecasts: list[_Logged] = []

    def __call__(self, name: str, fields: Mapping[str, Any]) -> None:
        if name == "strategy":
            self._forecasts.clear()
            self._feed.start(self._described(fields["strategy"], fields["seed"]))
        elif name == "forecast":
            self._forecasts.append(_read(of_forecast, fields))
        elif name in _VALUES:
            if name == "train":
                for forecast in self._forecasts:
                    self._feed.log(*forecast)
                self._forecasts.clear()
            self._feed.log(*_read(_VALUES[name], fields))


def _read(values_of: Callable[[Mapping[str, Any]], dict[str, float]], fields: Mapping[str, Any]) -> _Logged:
    try:
        return int(fields["step"]), values_of(fields)
    except (KeyError, TypeError, ValueError):
        return 0, {}
