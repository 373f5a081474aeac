"""Manifest: what a run was made of, so that another can be made like it. No clocks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from toolkit.inference import FoundationModel, LocalModel, RemoteModel
from toolkit.models.four_bit import dtype_name
from toolkit.runs.prepare import Prepared, seeds_of
from toolkit.strategies.adapter import Adapter
from toolkit.tuning.parallel.helpers import waiting


def manifest(prepared: Prepared, examples: int) -> dict[str, Any]:
    """Digests, versions, hardware, and each strategy's stack."""
    from toolkit import __version__
    from toolkit.models import describe, resolve

    recipe, task = prepared.recipe, prepared.task
    bench = next(iter(prepared.benches.values()))
    settings = [adapter.settings for strategy in recipe.strategies for adapter in strategy.adapters]
    needed = {what for one in settings for what in one.depends_on()}
    return {
        "toolkit": __version__,
        "recipe": {"name": recipe.name, "digest": recipe.digest, "path": recipe.path.name},
        "task": {
            "name": task.name,
            "kind": task.contract.kind,
            "digest": task.digest,
            "training_digest": task.training_digest,
            "test_digest": task.test_digest,
            "corpus_digest": bench.corpus_digest if "corpus" in needed else None,
            "sizes": {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
            "scored": examples,
            "shared_groups": task.shared_groups,
            "instruction": task.contract.instruction,
        },
        "models": {name: _model(model) for name, model in prepared.models.items()},
        "embedder": None if recipe.embedder is None else resolve(recipe.embedder, "embedder", recipe.path).name,
        "embedder_digest": bench.encoder.digest if "encoder" in needed and bench.embedder else None,
        "environment": dict(bench.environment),
        "hardware": describe() | ({"processes": waiting().count} if waiting().count > 1 else {}),
        "strategies": {
            strategy.name: {
                "label": strategy.label(),
                "control": strategy.control,
                "seeds": list(seeds_of(strategy, recipe)),
                "adapters": [{adapter.kind: _settings(adapter.settings)} for adapter in strategy.adapters],
                "contents": [dict(adapter.settings.content()) for adapter in strategy.adapters],
                "factors": asdict(prepared.sheets[strategy.name]),
            }
            for strategy in recipe.strategies
        },
    }


def _settings(settings: Adapter) -> dict[str, Any]:
    """An adapter's settings; of the places in them the last name, for the rest is of this machine."""
    said = settings.model_dump(mode="json")
    return {name: PurePath(value).name if value and name in settings.places else value for name, value in said.items()}


def _model(model: FoundationModel) -> dict[str, Any]:
    """What identifies a model; for a local one where its weights come from (of a folder that it is one) and how it
    computes: its path may differ from another model's; for a served one what its answers were reckoned at."""
    facts: dict[str, Any] = {"digest": model.digest}
    if isinstance(model, RemoteModel):
        facts["prices"] = {name: price.model_dump(mode="json") for name, price in model.prices.items()}
    if isinstance(model, LocalModel):
        dtype, device = dtype_name(model.module), str(model.module.device.type)
        source = "folder" if model.source.startswith("folder:") else model.source
        facts |= {"source": source, "dtype": dtype, "device": device, "path": model.path}
    return facts
