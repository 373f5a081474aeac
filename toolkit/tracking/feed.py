"""Feed: passes figures on to trackers. None of them can stop a run, and none is told a secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from toolkit.tracking.settings import redacted, without_secrets
from toolkit.tracking.tracker import Result, TrackedRun, Tracker

SHOWN_CHARACTERS = 300


class Feed:
    """Trackers as one. One that fails is told of once and left out from then on: a server that is gone would
    otherwise hold up every step.

    Args:
        tell: told of a tracker that failed, in words.
    """

    def __init__(self, trackers: Sequence[Tracker], tell: Callable[[str], None]) -> None:
        self._trackers = list(trackers)
        self._tell = tell

    def start(self, run: TrackedRun) -> None:
        clean = replace(run, settings=without_secrets(run.settings))
        self._each(lambda tracker: tracker.start(clean), f"at the start of {run.name}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if values:
            self._each(lambda tracker: tracker.log(step, values), f"at step {step}")

    def finish(self, results: Mapping[str, Result] | None) -> None:
        self._each(lambda tracker: tracker.finish(results), "at the end")

    def _each(self, act: Callable[[Tracker], None], when: str) -> None:
        for tracker in tuple(self._trackers):
            try:
                act(tracker)
            except Exception as error:  # whatever a library or a server does: the run goes on
                self._trackers.remove(tracker)
                said = redacted(" ".join(str(error).split()))[:SHOWN_CHARACTERS]
                self._tell(
                    f"the tracker {type(tracker).__name__} failed {when} and is left out from here on; the run goes on "
                    f"({type(error).__name__}: {said})"
                )
