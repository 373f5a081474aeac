"""Trackers for a training without a run: as the `on_step` of `train`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from toolkit.tracking.feed import Feed
from toolkit.tracking.settings import flat
from toolkit.tracking.tracker import Result, TrackedRun, Tracker
from toolkit.tracking.values import StepReport, of_report

OnReport = Callable[[StepReport], None]


@contextmanager
def tracking(
    *trackers: Tracker, name: str = "training", seed: int | None = None, settings: Mapping[str, object] | None = None
) -> Iterator[OnReport]:
    """Gives the `on_step` that feeds trackers.

        with tracking(JsonLines("training.jsonl"), settings=chosen.model_dump(), seed=0) as on_step:
            train(model.module, sequences, chosen, folder="adapter", seed=0, on_step=on_step)

    Args:
        settings: what the trackers show as parameters; secrets are taken out.

    Warns:
        RuntimeWarning: a tracker failed; it is left out from there on, and the training goes on.
    """
    feed = Feed(trackers, _warn)
    feed.start(TrackedRun(name, seed, flat(settings or {})))
    results: Mapping[str, Result] | None = None
    try:
        yield lambda report: feed.log(report.step, of_report(report))
        results = {}
    finally:
        feed.finish(results)


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)
