"""Fitting: a strategy to a system, part by part, through the Store.

A part's key holds everything it was made of, so a part already fitted anywhere is loaded, and a killed run goes on
where it stood.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.store import is_sealed, key_of, seal
from toolkit.strategies.adapter import Adapter, Answerer, Part
from toolkit.strategies.bench import Bench
from toolkit.strategies.context import PartContext
from toolkit.strategies.strategy import NamedAdapter, Strategy
from toolkit.strategies.system import System


@dataclass(frozen=True)
class Fitted:
    """A fitted strategy, with what its parts tell, the trials they made on validation and what fitting took.

    `fit_seconds` is as first measured, also where the parts came from the Store.
    """

    system: System
    facts: tuple[Mapping[str, Any], ...]
    trials: int
    fit_seconds: float


def fit(strategy: Strategy, seed: int | None, bench: Bench, folder: Path, system: Callable[[str], Answerer]) -> Fitted:
    """Fits a strategy's parts in order and leaves each in `folder/<n>-<adapter>`.

    Args:
        seed: of this replicate; None for a strategy without a seeded part.
        folder: the system's folder in a run; parts found there under the same key are loaded.
        system: another fitted strategy by name.

    Raises:
        ToolkitError: whatever a part finds wrong with its settings, data or model.
    """
    parts: list[Part] = []
    keys: list[str] = []
    trials, seconds = 0, 0.0
    for number, adapter in enumerate(strategy.adapters, start=1):
        before = System(Strategy(strategy.name, strategy.adapters[: number - 1]), parts, bench.model, bench.conditions)
        place = folder / f"{number}-{adapter.kind}"
        key = _key(adapter, seed, bench, keys, system)
        work = place.with_name(f".{place.name}.work-{key[:12]}")
        context = PartContext(bench, before, adapter, seed or 0, work, system)
        part = _part(adapter, key, place, context, bench)
        trials += _trials(place)
        seconds += float(json.loads((place / "cost.json").read_text(encoding="utf-8"))["fit_seconds"])
        parts.append(part)
        keys.append(key)
    key = key_of({"parts": keys, "model": bench.model.digest, "conditions": bench.conditions_key})
    fitted = System(strategy, parts, bench.model, bench.conditions, key)
    return Fitted(fitted, tuple(part.describe() for part in parts), trials, seconds)


def load(strategy: Strategy, seed: int | None, bench: Bench, folder: Path, system: Callable[[str], Answerer]) -> System:
    """A system as a finished run left it; nothing is fitted, whatever machine this is.

    Raises:
        RunError: a part is missing, damaged, or of other settings.
    """
    parts: list[Part] = []
    for number, adapter in enumerate(strategy.adapters, start=1):
        before = System(Strategy(strategy.name, strategy.adapters[: number - 1]), parts, bench.model, bench.conditions)
        place = folder / f"{number}-{adapter.kind}"
        if not is_sealed(place):
            raise RunError(f"{place} is missing or damaged: run the recipe again, it computes only what is missing")
        about = json.loads((place / "part.json").read_text(encoding="utf-8"))
        if about["settings"] != _settings(adapter.settings):
            raise RunError(f"{place} was fitted with other settings than the run's recipe.yaml says")
        context = PartContext(bench, before, adapter, seed or 0, place.with_name(f".{place.name}.load"), system)
        parts.append(_loaded(adapter, place, context))
    return System(strategy, parts, bench.model, bench.conditions)


def _part(adapter: NamedAdapter, key: str, place: Path, context: PartContext, bench: Bench) -> Part:
    """The part from the run folder, the Store, or by fitting; afterwards it is in both."""
    if is_sealed(place) and json.loads((place / "part.json").read_text(encoding="utf-8"))["key"] == key:
        shutil.rmtree(context.folder, ignore_errors=True)  # a process killed just before this left it
        return _loaded(adapter, place, context)
    part: Part | None = None
    building = place.with_name(f".{place.name}.copy")
    if not bench.store.taking(key, lambda stored: _copied(stored, building)):
        bench.meter.event("fit", strategy=context.strategy_name, adapter=adapter.kind)
        context.folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        part = made = adapter.settings.fit(context)
        seconds = time.perf_counter() - started + context.earlier_seconds

        def save(target: Path) -> None:
            _save(made, adapter, key, context.trials, seconds, target)

        bench.store.put(key, save)
        if not bench.store.taking(key, lambda stored: _copied(stored, building)):  # others are just replacing it
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            save(building)
            seal(building)
    shutil.rmtree(place, ignore_errors=True)
    building.rename(place)
    shutil.rmtree(context.folder, ignore_errors=True)
    if part is not None and type(adapter.settings).load is Adapter.load:
        return part  # without a `load` of its own, loading would fit a second time
    return _loaded(adapter, place, context)


def _copied(stored: Path, building: Path) -> bool:
    """Copies a part out of the Store.

    Raises:
        FileNotFoundError: another process replaced it meanwhile.
    """
    shutil.rmtree(building, ignore_errors=True)
    try:
        shutil.copytree(stored, building)
    except shutil.Error as error:
        if is_sealed(stored):
            raise  # it is all there, so something else is wrong
        raise FileNotFoundError(str(stored)) from error
    if not is_sealed(building):
        raise FileNotFoundError(str(stored))
    return True


def _loaded(adapter: NamedAdapter, place: Path, context: PartContext) -> Part:
    """The saved part. An adapter without `load` fits again, and may use the work folder for it."""
    context.folder.mkdir(parents=True, exist_ok=True)
    try:
        return adapter.settings.load(place, context)
    finally:
        shutil.rmtree(context.folder, ignore_errors=True)


def _save(part: Part, adapter: NamedAdapter, key: str, trials: Sequence[float], seconds: float, target: Path) -> None:
    part.save(target)
    (target / "cost.json").write_text(json.dumps({"fit_seconds": seconds}), encoding="utf-8")
    about = {
        "adapter": adapter.kind,
        "version": adapter.settings.version,
        "settings": _settings(adapter.settings),
        "key": key,
    }
    (target / "part.json").write_text(json.dumps(about, indent=1, sort_keys=True), encoding="utf-8")
    if trials:
        lines = "".join(json.dumps({"trial": number, "value": value}) + "\n" for number, value in enumerate(trials, 1))
        (target / "trials.jsonl").write_text(lines, encoding="utf-8")


def _settings(settings: Adapter) -> dict[str, Any]:
    """Settings without the places in them, for which their content stands."""
    return settings.model_dump(mode="json", exclude=set(settings.places))


def _trials(place: Path) -> int:
    path = place / "trials.jsonl"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def _key(
    adapter: NamedAdapter, seed: int | None, bench: Bench, before: Sequence[str], system: Callable[[str], Answerer]
) -> str:
    settings = adapter.settings
    depends = settings.depends_on()
    return key_of(
        {
            "adapter": f"{type(settings).__module__}.{type(settings).__qualname__}",
            "version": settings.version,
            "made_by": dict(bench.versions),
            "settings": _settings(settings),
            "content": dict(settings.content()),
            "seed": seed if settings.seeded else None,
            "data": bench.task.training_digest,
            "shared_groups": bench.task.shared_groups is not None,
            "before": list(before),
            "uses": [getattr(system(name), "key", name) for name in settings.uses()],
            "model": [bench.model.digest, bench.conditions_key] if "model" in depends else None,
            "primary": [bench.primary.name, bench.primary.version] if "model" in depends else None,
            "encoder": bench.encoder.digest if "encoder" in depends and bench.embedder else None,
            "corpus": bench.corpus_digest if "corpus" in depends else None,
        }
    )
