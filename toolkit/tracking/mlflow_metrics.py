"""The metrics of one MLflow run: sent together, and not a second time after a kill."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import Any

SEND_SECONDS = 5.0
"""Metrics wait for others for so long: a server far away must not slow down every step."""

MOST_METRICS = 500
"""In one request."""

_NOT_IN_NAMES = re.compile(r"[^\w.\- :/]")


class Metrics:
    """Sends values to one MLflow run.

    Args:
        library: the module `mlflow`.
        goes_on: the run was there before. A training that went on from a checkpoint says some steps again; MLflow
            would keep both points, so what stands there with the same value is not sent.
    """

    def __init__(self, library: Any, client: Any, run_id: str, goes_on: bool) -> None:
        self._library, self._client, self.run_id = library, client, run_id
        self._goes_on = goes_on
        self._stands: dict[str, dict[int, float]] = {}
        self._waiting: list[Any] = []
        self._sent_at = time.monotonic()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step; the first of them says whether the step stands there already."""
        if self._goes_on and self._is_there(step, values):
            return
        now = round(1000 * time.time())
        self._waiting += [self._library.entities.Metric(named(key), value, now, step) for key, value in values.items()]
        if len(self._waiting) >= MOST_METRICS or time.monotonic() - self._sent_at >= SEND_SECONDS:
            self.send()

    def send(self) -> None:
        """What waits, now."""
        while self._waiting:
            self._client.log_batch(self.run_id, metrics=self._waiting[:MOST_METRICS])
            del self._waiting[:MOST_METRICS]
        self._sent_at = time.monotonic()

    def _is_there(self, step: int, values: Mapping[str, float]) -> bool:
        if not values:
            return True
        name = next(iter(values))
        if name not in self._stands:
            history = self._client.get_metric_history(self.run_id, named(name))
            self._stands[name] = {point.step: point.value for point in history}
        return math.isclose(self._stands[name].get(step, math.nan), values[name])


def named(key: str) -> str:
    """A name that MLflow takes."""
    return _NOT_IN_NAMES.sub("_", key)
