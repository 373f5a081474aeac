"""Weights of full fine-tuning in a folder: all of a model's own, in one safetensors file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from toolkit.errors import ModelError
from toolkit.models.weights import shared_copy

WHOLE = "tuned_weights.safetensors"


def holds_all_weights(folder: Path | str) -> bool:
    """Whether a folder is of full fine-tuning, rather than an adapter."""
    return (Path(folder) / WHOLE).is_file()


def load_whole(module: Any, folder: Path | str) -> Any:
    """A copy of the base's structure with the folder's weights, in eval mode and without gradients.

    Raises:
        ModelError: the file is damaged, or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        tensors = load_file(folder / WHOLE)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"'{folder / WHOLE}' cannot be read: {error}") from error
    view = shared_copy(module)
    parameters = dict(view.named_parameters())
    if wrong := sorted(tensors.keys() ^ parameters.keys()):
        raise ModelError(f"'{folder}' does not fit the model: {len(wrong)} tensors differ by name, as {wrong[0]}")
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            found, wanted = tuple(tensors[name].shape), tuple(parameter.shape)
            raise ModelError(f"'{folder}' does not fit the model: {name} is {found} there and {wanted} here")
        parameter.data = tensors[name].to(parameter.device, parameter.dtype)
    return view.eval()


def whole_digest(folder: Path | str) -> str:
    """sha256 over the file of all weights."""
    with (Path(folder) / WHOLE).open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
