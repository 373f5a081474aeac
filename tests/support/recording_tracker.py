"""A tracker that remembers what it was told, and one that fails where it is told to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.tracking import Result, TrackedRun


class Recorder:
    """Remembers the runs, the figures of each by its name, and the results (`"nothing"` before they come)."""

    def __init__(self) -> None:
        self.runs: list[TrackedRun] = []
        self.logged: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.results: Any = "nothing"

    def start(self, run: TrackedRun) -> None:
        self.runs.append(run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.logged.setdefault(self.runs[-1].name, []).append((step, dict(values)))

    def finish(self, results: Mapping[str, Result] | None) -> None:
        self.results = results


class Broken(Recorder):
    """Raises what it is given at the nth call of all."""

    def __init__(self, error: Exception, at_call: int = 1) -> None:
        super().__init__()
        self.error, self.at_call, self.calls = error, at_call, 0

    def _count(self) -> None:
        self.calls += 1
        if self.calls >= self.at_call:
            raise self.error

    def start(self, run: TrackedRun) -> None:
        self._count()
        super().start(run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._count()
        super().log(step, values)

    def finish(self, results: Mapping[str, Result] | None) -> None:
        self._count()
        super().finish(results)
