"""The metrics of one MLflow run: sent together, and not a second time after a kill."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

SEND_SECONDS = 5.0
"""Metrics wait for others for so long."""

MOST_METRICS = 500
"""In one request."""

_NOT_IN_NAMES = re.compile(r"[^\w.\- :/]")


class Metrics:
    """Sends values to one MLflow run, from a thread: what a server takes must not count as time of training.

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
        self._thread = ThreadPoolExecutor(1, "mlflow")
        self._under_way: Future[Any] | None = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step; the first of them says whether the step stands there already.

        Raises:
            Exception: whatever an earlier request met.
        """
        if self._goes_on and self._is_there(step, values):
            return
        now = round(1000 * time.time())
        self._waiting += [self._library.entities.Metric(named(key), value, now, step) for key, value in values.items()]
        due = len(self._waiting) >= MOST_METRICS or time.monotonic() - self._sent_at >= SEND_SECONDS
        if due and (self._under_way is None or self._under_way.done()):
            self._send()

    def close(self) -> None:
        """Sends what waits, and waits for it. Raises what the requests met."""
        try:
            while self._waiting:
                self._send()
            self._sent()
        finally:
            self._thread.shutdown()

    def _send(self) -> None:
        self._sent()
        some, self._waiting = self._waiting[:MOST_METRICS], self._waiting[MOST_METRICS:]
        self._under_way = self._thread.submit(self._client.log_batch, self.run_id, metrics=some)
        self._sent_at = time.monotonic()

    def _sent(self) -> None:
        if self._under_way is not None:
            self._under_way.result()

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
