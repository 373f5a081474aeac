"""Adapters in PEFT's format: made, and saved with the same bytes everywhere. `toolkit.models.adapted` loads them.

The base is never touched: an adapter is made on a structural copy that shares the base's tensors.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import ModelError
from toolkit.models.adapted import CONFIG, TENSORS, cuda_devices, use_one_rounding
from toolkit.models.weights import shared_copy
from toolkit.seeds import derive
from toolkit.tuning.settings import TuneSettings

if TYPE_CHECKING:
    from peft import PeftModel


def new_adapter(module: Any, settings: TuneSettings, seed: int) -> PeftModel:
    """A fresh LoRA adapter on a copy of the base; `.get_base_model()` is the view, of the base's own class.

    The adapter's tensors are fp32 and alone require gradients. A is drawn from the seed, B is 0, so the view answers
    like the base. The global generator is left as it was.

    Raises:
        ModelError: a target module does not exist in this model.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    targets = settings.target_modules
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias="none",
    )
    copied = shared_copy(module)
    use_one_rounding(config, copied)
    with torch.random.fork_rng(devices=cuda_devices(module)), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
        torch.manual_seed(derive(seed, "adapter"))
        try:
            return get_peft_model(copied, config)
        except ValueError as error:
            raise ModelError(f"target_modules: {error}") from error


def save_adapter(adapted: PeftModel, folder: Path | str, base_name: str | None = None) -> None:
    """Writes the adapter for `peft.PeftModel.from_pretrained`: the same adapter gives the same bytes anywhere.

    Args:
        base_name: what the file says the adapter belongs to; never the path this machine loaded it from.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in found.items()}
    settings = adapted.peft_config["default"].to_dict()
    settings |= {"base_model_name_or_path": base_name, "inference_mode": True}
    text = json.dumps(settings, indent=2, sort_keys=True, default=_plain)
    write_atomically(folder / TENSORS, save(tensors, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, text.encode() + b"\n")


def write_atomically(path: Path, content: bytes) -> None:
    """The file is whole or absent, whenever the process is killed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    os.replace(partial, path)


def _plain(value: Any) -> Any:
    """What JSON cannot hold: sets in sorted order (theirs follows the process's hash seed), enumerations."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no place in {CONFIG}")
