"""A run's trackers: which ones, what they are told of each strategy, and what came of it in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from toolkit.errors import RunError, nearest
from toolkit.meter import Listener
from toolkit.recipe import Recipe
from toolkit.runs.folder import RunFolder
from toolkit.strategies.strategy import Strategy
from toolkit.tracking import JsonLines, MLflow, Result, TensorBoard, TrackedRun, Tracker
from toolkit.tracking.feed import Feed
from toolkit.tracking.listener import TrainingEvents
from toolkit.tracking.settings import flat

NAMES = ("tensorboard", "mlflow")


def trackers_of(asked: Sequence[str | Tracker], folder: RunFolder) -> list[Tracker]:
    """The trackers of a run: always JSON Lines, and those asked for by name or made already.

    Raises:
        RunError: a name that is none of `NAMES`, or its library is not installed.
    """
    names = dict.fromkeys(item for item in asked if isinstance(item, str))
    made = [item for item in asked if not isinstance(item, str)]
    return [JsonLines(folder.training), *(_named(name, folder) for name in names), *made]


def _named(name: str, folder: RunFolder) -> Tracker:
    if name == "tensorboard":
        return TensorBoard(folder.tensorboard)
    if name == "mlflow":
        return MLflow(folder.mlflow)
    raise RunError(f"unknown tracker '{name}'{nearest(name, NAMES)}; there are: {', '.join(NAMES)}")


class Tracked:
    """A listener that feeds trackers and passes every event on.

    Args:
        onward: told of all events, and of a tracker that failed.
    """

    def __init__(self, trackers: Sequence[Tracker], recipe: Recipe, onward: Listener) -> None:
        self._onward = onward
        self._feed = Feed(trackers, lambda text: onward("notice", {"text": text, "settled": True, "problem": True}))
        self._events = TrainingEvents(self._feed, lambda strategy, seed: described(recipe, strategy, seed))
        self._results: Mapping[str, Result] | None = None

    def __call__(self, name: str, fields: Mapping[str, Any]) -> None:
        self._events(name, fields)
        self._onward(name, fields)

    def conclude(self, comparison: Mapping[str, Any]) -> None:
        """The run came to its end, with what `comparison.json` says."""
        self._results = results_of(comparison)

    def finish(self) -> None:
        self._feed.finish(self._results)


@contextmanager
def tracked(trackers: Sequence[Tracker], recipe: Recipe, onward: Listener) -> Iterator[Tracked]:
    """Trackers for the length of a run; they are finished whatever happens to it."""
    listener = Tracked(trackers, recipe, onward)
    try:
        yield listener
    finally:
        listener.finish()


def described(recipe: Recipe, name: str, seed: int | None) -> TrackedRun:
    """A strategy and seed with its settings: the recipe's factors, then `<adapter>.<setting>`."""
    strategy, own = recipe.strategy(name), recipe.overrides[name]
    settings: dict[str, object] = {
        "recipe_digest": recipe.digest,
        "task": recipe.task if isinstance(recipe.task, str) else "inline",
        "model": recipe.models[own.model] if own.model else recipe.model,
        "template": own.template or recipe.template,
        "dtype": recipe.dtype,
        "strategy": name,
        "adapters": strategy.label(),
    }
    if seed is not None:
        settings["seed"] = seed
    for label, adapter in zip(_labels(strategy), strategy.adapters, strict=True):
        settings |= flat(adapter.settings.model_dump(mode="json"), f"{label}.")
    return TrackedRun(name, seed, flat(settings), recipe.name)


def _labels(strategy: Strategy) -> list[str]:
    """The adapters' kinds; those of a kind that the stack holds twice with their places, `2-prompt`."""
    kinds = Counter(adapter.kind for adapter in strategy.adapters)
    numbered = enumerate(strategy.adapters, start=1)
    return [adapter.kind if kinds[adapter.kind] == 1 else f"{place}-{adapter.kind}" for place, adapter in numbered]


def results_of(comparison: Mapping[str, Any]) -> dict[str, Result]:
    """By tracked run: its strategy's scores on the test set, and the verdict of each contrast against another one."""
    found: dict[str, Result] = {}
    for name, facts in comparison["strategies"].items():
        kind = "test" if len(facts["seeds"]) == 1 else "test_mean_over_seeds"
        values = {f"{kind}/{metric}": float(figure["score"]) for metric, figure in facts["metrics"].items()}
        tags = {}
        for contrast in comparison["contrasts"]:
            if contrast["a"] == name:
                on = "" if contrast["metric"] == comparison["metric"] else f" on {contrast['metric']}"
                tags[f"verdict against {contrast['b']}{on}"] = contrast["verdict"] or "refused"
        found |= {TrackedRun(name, seed).name: Result(values, tags) for seed in facts["seeds"]}
    return found
