"""Manifest: what a run was made of, so that another can be made like it. No clocks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from toolkit.inference import FoundationModel, LocalModel
from toolkit.models.four_bit import dtype_name
from toolkit.runs.prepare import Prepared, seeds_of


def manifest(prepared: Prepared, examples: int) -> dict[str, Any]:
    """Digests, versions, hardware, and each strategy's stack."""
    from toolkit import __version__
    from toolkit.models import describe

    recipe, task = prepared.recipe, prepared.task
    bench = next(iter(prepared.benches.values()))
    return {
        "toolkit": __version__,
        "recipe": {"name": recipe.name, "digest": recipe.digest, "path": recipe.path.name},
        "task": {
            "name": task.name,
            "kind": task.contract.kind,
            "digest": task.digest,
            "test_digest": task.test_digest,
            "sizes": {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
            "scored": examples,
            "shared_groups": task.shared_groups,
            "instruction": task.contract.instruction,
        },
        "models": {name: _model(model) for name, model in prepared.models.items()},
        "embedder": recipe.embedder,
        "environment": dict(bench.environment),
        "hardware": describe(),
        "strategies": {
            strategy.name: {
                "label": strategy.label(),
                "control": strategy.control,
                "seeds": list(seeds_of(strategy, recipe)),
                "adapters": [{adapter.kind: adapter.settings.model_dump(mode="json")} for adapter in strategy.adapters],
                "factors": asdict(prepared.sheets[strategy.name]),
            }
            for strategy in recipe.strategies
        },
    }


def _model(model: FoundationModel) -> dict[str, Any]:
    """What identifies a model, and for a local one how it computes: its path may differ from another model's."""
    facts: dict[str, Any] = {"digest": model.digest}
    if isinstance(model, LocalModel):
        dtype, device = dtype_name(model.module), str(model.module.device.type)
        facts |= {"dtype": dtype, "device": device, "path": model.path}
    return facts
