"""A training's state on disk: one safetensors file, replaced in one step, whole whenever we are killed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.models.weights import tensors_digest
from toolkit.tuning.adapter import write_tensors
from toolkit.tuning.amounts import Item, content_digest
from toolkit.tuning.settings import TuneSettings

FOLDER, FILE = "checkpoint", "state.safetensors"
FORMAT = "2"
"""Of the order in which a state's weights lie."""
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class State(NamedTuple):
    """What has been done: the loss of each step, each look at validation as (steps before it, value), and the seconds
    that it took, of all calls together.
    """

    losses: list[float]
    looks: list[tuple[int, float]]
    seconds: float = 0.0


def training_key(
    module: Any, items: Sequence[Item], settings: TuneSettings, seed: int, shapes: Sequence[tuple[int, ...]]
) -> str:
    """sha256 of what decides a training's result: how often checkpoints are written and what is recomputed do not.

    Args:
        shapes: of what is trained, as it lies in a state: `eva` may find other ranks elsewhere.
    """
    digest = hashlib.sha256(tensors_digest(module).encode())
    digest.update(FORMAT.encode())
    digest.update(settings.model_dump_json(exclude={"checkpoint_every", "gradient_checkpointing"}).encode())
    digest.update(f"\0{seed}\0{content_digest(items)}\0{list(shapes)}".encode())
    return digest.hexdigest()


def place(folder: Path) -> Path:
    """Where a training's state lies."""
    return folder / FOLDER / FILE


def write(folder: Path, key: str, weights: Any, optimiser: Any, done: State) -> None:
    """The trained weights, the optimiser's moments and what has been done.

    Args:
        weights: the vector whose parts, one behind the other, are what the optimiser holds.
    """
    states = [optimiser.state[part] for part in _parts(optimiser)]
    tensors = {"weights": weights.detach().cpu(), **{name: _joined([one[name] for one in states]) for name in _MOMENTS}}
    place(folder).parent.mkdir(parents=True, exist_ok=True)
    metadata = {"training": json.dumps({"key": key, **done._asdict()})}
    write_tensors(place(folder), tensors, metadata)


def resume(folder: Path, key: str, weights: Any, optimiser: Any, usable: Callable[[State], bool]) -> State:
    """Puts a written state back and says what has been done: nothing where no state of this training is.

    Args:
        usable: whether a training can go on from what has been done.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path = place(folder)
    if not path.is_file():
        return State([], [])
    try:
        with safe_open(str(path), framework="pt") as file:
            story = json.loads(file.metadata()["training"])
            tensors = {name: file.get_tensor(name) for name in ("weights", *_MOMENTS)}
            losses, looks = story["losses"], story["looks"]
            seconds = float(story["seconds"])
            done = State([float(loss) for loss in losses], [(int(at), float(v)) for at, v in looks], seconds)
            if story["key"] != key or not usable(done):
                return State([], [])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return State([], [])  # unreadable: the training starts again, which gives the same adapter
    with torch.no_grad():
        weights.copy_(tensors["weights"])
    parts = _parts(optimiser)
    for name in _MOMENTS:
        sizes = [1 if name == "step" else part.numel() for part in parts]
        for part, tensor in zip(parts, tensors[name].split(sizes), strict=True):
            found = tensor[0] if name == "step" else tensor
            optimiser.state[part][name] = found.to(part.device, copy=True)  # fused AdamW counts where its weights lie
    return done


def remove(folder: Path) -> None:
    """Once the adapter is written."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _joined(tensors: Sequence[Any]) -> Any:
    """One vector on the CPU, copied only where it must be: a model's moments are large, and a GPU's memory is full."""
    import torch

    found = [tensor.detach().reshape(-1).cpu() for tensor in tensors]
    return found[0] if len(found) == 1 else torch.cat(found)


def _parts(optimiser: Any) -> list[Any]:
    return [part for group in optimiser.param_groups for part in group["params"]]
