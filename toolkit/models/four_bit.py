"""Weights in 4 bits: NF4 with double quantisation (QLoRA, Dettmers et al. 2023), through bitsandbytes.

The linear layers are quantised once, when the model is loaded, and never written to again; embeddings, norms and the
head stay as they are. Each product makes a layer's weights again in the dtype that the model computes in. A quantised
weight is told by its `quant_state`, so that nothing here imports bitsandbytes before such a weight is asked for.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from toolkit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

NF4 = "nf4"


def check_library() -> None:
    """Before anything is fetched or loaded.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"dtype '{NF4}' needs the library `bitsandbytes`, which is not installed: "
            'pip install "adaptation-toolkit[qlora]"'
        )


def loading(computing: str, device: str) -> dict[str, Any]:
    """What `from_pretrained` must be told besides: the linear layers are quantised on the device they stay on."""
    import torch
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=NF4,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, computing),
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def keep_bytes(module: Module) -> None:
    """Answering must not write to the weights.

    On processors with AVX512-BF16 bitsandbytes packs a layer's weights anew, in place, when it is first asked without a
    gradient, and rounds their scales to bfloat16: the base would change under whoever asks first.
    """
    for _, layer in quantised_layers(module):
        layer.support_avx512bf16_for_cpu = False


def is_quantised(module: Module) -> bool:
    """Whether any of a module's weights is in 4 bits."""
    return any(True for _ in quantised_layers(module))


def quantised_layers(module: Module) -> Iterator[tuple[str, Any]]:
    """The layers whose own weight is in 4 bits, by name; not the adapted ones around them."""
    for name, layer in module.named_modules():
        weight = layer._parameters.get("weight")
        if weight is not None and _state(weight) is not None:
            yield name, layer


def dtype_name(module: Any) -> str:
    """What a model computes in, for manifests and keys: `bfloat16`, or `bfloat16, weights in nf4`."""
    computing = str(module.dtype).removeprefix("torch.")
    kinds = sorted({str(layer.weight.quant_state.quant_type) for _, layer in quantised_layers(module)})
    return f"{computing}, weights in {' and '.join(kinds)}" if kinds else computing


def asked_dtype(name: str) -> str:
    """The dtype under which `load_pretrained` gives weights of which `dtype_name` says `name`."""
    return NF4 if name.endswith(NF4) else name


def parameter_count(module: Module) -> int:
    """Parameters as the model has them: one in 4 bits is half a byte of its tensor, and counts as one."""
    states = ((one, _state(one)) for one in module.parameters())
    return sum(one.numel() if state is None else state.shape.numel() for one, state in states)


def state_tensors(module: Module) -> dict[str, Tensor]:
    """Scales, code book and shape of each weight in 4 bits, by the names that a file of it would have."""
    found: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if (state := _state(parameter)) is not None:
            found |= {f"{name}.{key}": tensor for key, tensor in state.as_dict(packed=True).items()}
    return found


def shared_parameter(parameter: Parameter, memo: dict[int, object]) -> Parameter:
    """A parameter of its own over another's storage, frozen, of the same class.

    Args:
        memo: of a deep copy; the scales of weights in 4 bits, which their layer holds as well, are put down as shared.
    """
    import torch

    if (state := _state(parameter)) is None:
        return torch.nn.Parameter(parameter.detach(), requires_grad=False)
    memo[id(state)] = state
    with torch.inference_mode(False):  # a copy made while answering must be one that can be viewed later
        twin: Parameter = copy.copy(parameter)  # bitsandbytes' own: its class, the same storage, the same scales
        twin.requires_grad = False
    twin.module = None  # else it would hold the original's layer
    return twin


def dequantise(view: Any) -> Any:
    """Makes a copy's quantised layers plain ones, in the dtype they compute in: the same products, four times the size.

    Args:
        view: from `shared_copy`; its layers are replaced.
    """
    from bitsandbytes.functional import dequantize_4bit
    from torch import nn

    for name, layer in list(quantised_layers(view)):
        state = copy.copy(layer.weight.quant_state)
        state.dtype = layer.compute_dtype  # not that of the weights it was made from, which would round first
        weight = dequantize_4bit(layer.weight.data, state)
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), layer.bias
        place, _, own = name.rpartition(".")
        setattr(view.get_submodule(place), own, plain.train(layer.training))
    view.is_loaded_in_4bit = view.is_quantized = False
    view.quantization_method = view.hf_quantizer = None
    if hasattr(view.config, "quantization_config"):
        del view.config.quantization_config
    return view


def in_float32(view: Any) -> Any:
    """A copy as it is, but computing in float32; weights in 4 bits stay what they are."""
    import torch

    for _, layer in quantised_layers(view):
        layer.compute_dtype = torch.float32
    return torch.nn.Module.float(view)  # transformers refuses its own for quantised models


def _state(parameter: Any) -> Any:
    """How a weight in 4 bits is read; None for any other."""
    return getattr(parameter, "quant_state", None)
