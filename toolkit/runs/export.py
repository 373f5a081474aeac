"""Handing over: where a finished run keeps a strategy's tuned weights, and what is known of their base."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.errors import ModelError, RunError
from toolkit.models import Entry, load_pretrained, resolve
from toolkit.models.adapter_files import CONFIG, TENSORS
from toolkit.models.base import Base
from toolkit.models.export import export_adapter, export_merged
from toolkit.models.fetch import Notice
from toolkit.models.four_bit import asked_dtype
from toolkit.models.whole import WHOLE
from toolkit.recipe import Recipe
from toolkit.runs.folder import RunFolder
from toolkit.runs.prepare import seeds_of
from toolkit.runs.reopen import recipe_of, strategy_of
from toolkit.store import is_sealed
from toolkit.strategies.strategy import Strategy
from toolkit.strategies.tuned import Tuned


def tuned_weights(root: Path, name: str, seed: int | None = None) -> Tuned:
    """The weights of a strategy's seed, the first where none is named. Neither task nor model is loaded.

    Raises:
        RunError: no run, no such strategy or seed, none that is tuned, or its files are missing or damaged.
    """
    folder = RunFolder(root)
    recipe = recipe_of(folder)
    strategy = strategy_of(folder, recipe, name)
    if not folder.is_finished:
        raise RunError(f"{root} is not finished: run the recipe to its end first")
    place = next((place for place, item in enumerate(strategy.adapters) if item.settings.tunes), None)
    if place is None:
        raise RunError(
            f"'{name}' ({strategy.label()}) has no tuned weights to hand over: it is the base model with other "
            f"prompts. To answer with it: toolkit predict {root} {name} TEXT"
        )
    chosen = _seed(strategy, recipe, seed)
    system = folder.system(name, chosen)
    part = system / f"{place + 1}-{strategy.adapters[place].kind}"
    if not is_sealed(part):
        raise RunError(f"{part} is missing or damaged: run the recipe again, it computes only what is missing")
    found = [path.parent for path in sorted(part.rglob(CONFIG)) if (path.parent / TENSORS).is_file()]
    found += [path.parent for path in sorted(part.rglob(WHOLE))]
    if not found:
        raise RunError(f"{part} holds no {CONFIG} with {TENSORS}: its adapter saves its weights in another form")
    return Tuned(strategy, chosen, found[0], system, _base(folder, recipe, name))


def write_adapter(tuned: Tuned, folder: Path) -> None:
    """The PEFT folder, which says by a published name what it belongs to."""
    export_adapter(tuned.weights, folder, tuned.base.published, tuned.base.revision)


def write_merged(tuned: Tuned, folder: Path, dtype: str, notice: Notice | None = None) -> None:
    """The whole model in transformers' format, merged on the CPU from the base as the run computed with it.

    Raises:
        ModelError: the base cannot be loaded, or is no longer the run's.
    """
    base = tuned.base
    if base.entry is None:
        raise ModelError(
            f"the base '{base.name}' is no longer where the run's recipe names it: bring it back, or leave out "
            "`--merged`"
        )
    loaded = load_pretrained(base.entry, asked_dtype(base.dtype), "cpu", notice)
    if loaded.digest != base.digest:
        raise ModelError(
            f"the weights of '{base.name}' are no longer those of the run ({loaded.digest[:12]} and not "
            f"{base.digest[:12]}): bring the old ones back, or run the recipe again"
        )
    export_merged(loaded, tuned.weights, folder, dtype)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to write into; what is written appears in `folder` when all of it is there.

    Raises:
        RunError: `folder` holds something, or cannot be written.
    """
    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError(f"{folder} is there already and not an empty folder: give another `--out`, or remove it")
    work = folder.with_name(f".{folder.name}.writing-{os.getpid()}")
    try:
        work.mkdir(parents=True)
        yield work
        try:
            os.replace(work, folder)
        except OSError:  # not everywhere may it take an empty folder's place, and never a mounted one's
            folder.mkdir(exist_ok=True)
            for path in work.iterdir():
                path.rename(folder / path.name)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _seed(strategy: Strategy, recipe: Recipe, asked: int | None) -> int | None:
    seeds = seeds_of(strategy, recipe)
    if asked is None:
        return seeds[0]
    if asked not in seeds:
        if seeds == (None,):
            raise RunError(f"'{strategy.name}' was fitted once, without a seed: leave out `--seed`")
        raise RunError(f"'{strategy.name}' has no seed {asked}; it was fitted with {', '.join(map(str, seeds))}")
    return asked


def _base(folder: RunFolder, recipe: Recipe, strategy: str) -> Base:
    """From the manifest, and from the catalogue what is written there of the same source."""
    facts = json.loads(folder.manifest.read_text(encoding="utf-8"))
    name, model = _model_facts(facts, strategy)
    try:
        entry: Entry | None = resolve(recipe.model_of(strategy), "model", recipe.path)
    except ModelError:
        entry = None  # a folder that is gone: the adapter is as good as ever
    source = model.get("source") or (str(entry.source) if entry and entry.source.folder is None else "folder")
    return Base(name, model["digest"], source, model["dtype"], entry)


def _model_facts(manifest: Mapping[str, Any], strategy: str) -> tuple[str, Mapping[str, Any]]:
    """The manifest's entry of the model that a strategy asked: its factor sheet holds the start of the digest."""
    sheet = manifest["strategies"][strategy]["factors"]["model"]
    return next((name, facts) for name, facts in manifest["models"].items() if facts["digest"][:12] in sheet)
