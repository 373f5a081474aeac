"""Adapters in PEFT's format, read from a folder: as a view of the base, merged into a copy, or their digest.

A folder of full fine-tuning (`toolkit.models.whole`) is taken as well, and is merged as it is.

The base is never touched: every function works on a structural copy that shares the base's tensors.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import ModelError
from toolkit.models.adapter_files import (
    ACTIVATED,
    BESIDE_LORA,
    PREFIX,
    TENSORS,
    declared_base,
    plain_name,
    read_settings,
    writing_into_base,
)
from toolkit.models.four_bit import dequantise, is_quantised
from toolkit.models.weights import shared_copy
from toolkit.models.whole import holds_all_weights, load_whole, whole_digest

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch.nn import Module


class MisfitError(ModelError):
    """An adapter does not fit a model; `reason` says why without naming the adapter's folder."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"adapter '{folder}' does not fit the model: {reason}")
        self.reason = reason


def load_adapter(module: Any, folder: Path | str) -> Any:
    """A view of the base under a PEFT adapter, ours or another trainer's, in eval mode and without gradients.

    What PEFT's own layers compute (DoRA, weights in 4 bits or of another class than `Linear`) stays in fp32, as in
    training; plain LoRA's tensors, which training casts before use, take the base's dtype at once, but where the base
    itself is multiplied in fp32 (`toolkit.models.widening`).

    Raises:
        ModelError: the folder holds no safetensors adapter, or one that would write into the base.
        MisfitError: it does not fit the model.
    """
    from toolkit.models.widening import computing_dtype_of

    if holds_all_weights(folder):
        return load_whole(module, folder)
    adapted = _loaded(module, Path(folder))
    if computing_dtype_of(module) == module.dtype:
        _narrow(adapted)
    return adapted.get_base_model()


def merged(module: Any, folder: Path | str) -> Any:
    """A copy of the base with the adapter added into its weights: W + scaling B A in fp32, then the base's dtype.

    Changed weights are the copy's own; the others stay shared with the base. In bf16 the result is rounded to what
    bf16 can hold and loses much of a small adapter, so what is scored should be what is served. A base in 4 bits is
    dequantised to the dtype it computes in: what the adapter adds is mostly smaller than the steps between 4-bit codes.

    Raises:
        ModelError: as `load_adapter`.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    if holds_all_weights(folder):
        return load_whole(module, folder)
    if is_quantised(module):
        module = dequantise(shared_copy(module))
    adapted = _loaded(module, Path(folder))
    for layer in [found for found in adapted.modules() if isinstance(found, BaseTunerLayer)]:
        base = layer.get_base_layer()
        dtype = base.weight.dtype
        base.weight = torch.nn.Parameter(base.weight.detach().to(torch.float32, copy=True), requires_grad=False)
        layer.merge()
        base.weight = torch.nn.Parameter(base.weight.detach().to(dtype), requires_grad=False)
    return adapted.unload()


def adapter_digest(folder: Path | str) -> str:
    """sha256 over an adapter's tensors and configuration; the name of its base does not count.

    Raises:
        ModelError: the folder holds no safetensors adapter.
    """
    folder = Path(folder)
    if holds_all_weights(folder):
        return whole_digest(folder)
    settings = read_settings(folder)
    settings.pop("base_model_name_or_path", None)
    digest = hashlib.sha256(json.dumps(dict(sorted(settings.items()))).encode())  # a pattern's order counts
    digest.update((folder / TENSORS).read_bytes())
    return digest.hexdigest()


def adapter_in_the_way(module: Module) -> str | None:
    """Why no adapter can be put on a model, and what to do; None where it has none. PEFT would replace it unasked."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not any(isinstance(layer, BaseTunerLayer) for layer in module.modules()):
        return None
    return (
        "the model carries an adapter already, which would be lost: merge it first "
        "(`toolkit.models.merged(base, folder)`) and take what comes of it"
    )


def use_one_rounding(config: PeftConfig, module: Module) -> None:
    """PEFT's own way to have its layers be of another class; quantised layers, subclasses of Linear, keep theirs."""
    from torch.nn import Linear

    from toolkit.models.one_rounding import OneRoundingLinear

    linear = [type(layer) for layer in module.modules() if isinstance(layer, Linear)]
    if config.peft_type == "LORA" and set(linear) == {Linear}:
        config._register_custom_module({Linear: OneRoundingLinear})


def cuda_devices(module: Any) -> list[Any]:
    """The devices whose random generator `fork_rng` must keep, beside the CPU's."""
    return [module.device] if module.device.type == "cuda" else []


def _loaded(module: Any, folder: Path) -> PeftModel:
    """With the adapter's tensors in fp32."""
    import torch
    from peft import PeftConfig, PeftModel
    from safetensors import SafetensorError

    if faults := writing_into_base(folder):
        raise ModelError(f"adapter '{folder}': {'; '.join(faults)}")
    if read_settings(folder).get(ACTIVATED):  # PEFT tells its layers from where on, which views under it are not told
        raise ModelError(f"adapter '{folder}': {ACTIVATED}: {BESIDE_LORA[ACTIVATED]}, which would have no effect here")
    if reason := adapter_in_the_way(module):
        raise ModelError(f"adapter '{folder}': {reason}")
    copied = shared_copy(module)
    with torch.random.fork_rng(devices=cuda_devices(module)), warnings.catch_warnings():  # PEFT draws before it reads
        warnings.simplefilter("ignore")  # tensors that are missing are an error below
        try:
            config = PeftConfig.from_pretrained(str(folder))
            if config.is_prompt_learning:
                raise ModelError(f"adapter '{folder}': {config.peft_type} changes prompts, not weights")
            use_one_rounding(config, copied)
            adapted = PeftModel.from_pretrained(copied, str(folder), config=config, autocast_adapter_dtype=True)
            _check_names(adapted, folder)
        except (ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
            if isinstance(error, ModelError):
                raise
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise MisfitError(folder, _misfit(module, folder) or first[0]) from error
    adapted.requires_grad_(False)
    adapted.eval()
    return adapted


def _narrow(adapted: PeftModel) -> None:
    from toolkit.models.one_rounding import OneRoundingLinear

    for layer in [found for found in adapted.modules() if isinstance(found, OneRoundingLinear)]:
        if name := layer.only_adapter():
            dtype = layer.get_base_layer().weight.dtype
            layer.lora_A[name].to(dtype)
            layer.lora_B[name].to(dtype)


def _check_names(adapted: PeftModel, folder: Path) -> None:
    """PEFT only warns of tensors that the file lacks, which would be random, or that the model has no place for."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(str(folder / TENSORS), framework="pt") as file:
        stored = set(file.keys())
    needed = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if missing := sorted(needed - stored):
        raise ValueError(f"{TENSORS} lacks {len(missing)} of {len(needed)} tensors, the first is {missing[0]}")
    if left := sorted(name for name in stored - needed if "lora_" in name):
        raise ValueError(f"{TENSORS} holds {len(left)} tensors too many, the first is {left[0]}")


def _misfit(module: Any, folder: Path) -> str | None:
    """Which layers LoRA's tensors do not belong to, by name or by size; None where all seem to fit."""
    from safetensors import safe_open

    sizes: dict[str, dict[str, int]] = {}
    with safe_open(str(folder / TENSORS), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            layer, _, matrix = plain_name(name).removeprefix(PREFIX).partition(".lora_")
            shape = file.get_slice(name).get_shape()
            if matrix[:2] in ("A.", "B."):
                sizes.setdefault(layer, {})[matrix[:1]] = shape[1] if matrix[:1] == "A" else shape[0]
    there = dict(module.named_modules())
    trained_on = declared_base(folder)
    other = f"it was trained on another model{f', it says on {trained_on}' if trained_on else ''}"
    if absent := sorted(layer for layer in sizes if layer not in there):
        return f"{len(absent)} of the {len(sizes)} layers it adapts are not there, the first is {absent[0]}: {other}"
    for layer, size in sizes.items():
        shape = getattr(getattr(there[layer], "weight", None), "shape", ())
        if size.keys() == {"A", "B"} and sorted(shape) != sorted(size.values()):
            found = f"takes {size['A']} numbers and gives {size['B']}"
            return f"its part of {layer} {found}, where the model has {' x '.join(map(str, shape))} weights: {other}"
    return None
