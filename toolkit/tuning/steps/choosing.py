"""Which step computes a training: by hand, packed through the stock model, or padded; and the probe that allows it.

By hand where it is proven, packed where only the attention is, padded where nothing is known; the reason is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from toolkit.inference.families import why_unknown
from toolkit.models.four_bit import in_float32, is_quantised
from toolkit.models.one_rounding import OneRoundingLinear
from toolkit.models.positions import moving_positions
from toolkit.models.weights import shared_copy
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.methods import UPS
from toolkit.tuning.steps.fused import FAMILIES, in_order
from toolkit.tuning.steps.loss import collate, has_plain_head, token_losses
from toolkit.tuning.steps.noise import Noisy
from toolkit.tuning.steps.step import ByHand, Packed, Padded, Step

PROBE = ((5, 7, 3, 11, 2, 9, 6, 13, 4, 8, 12, 3), (5, 7, 3, 11, 2, 9, 6, 13, 4, 10, 1))
"""What they begin with is long enough to be packed once."""

PROBE_ROWS = tuple(TrainingSequence(ids, (False,) * 9 + (True,) * (len(ids) - 9)) for ids in PROBE)
PROBE_LAYERS, PROBE_WORDS = 2, 14
LARGEST_ERROR = 1e-3
"""Of a probe's gradient against the stock model's, relative to its length."""


def why_not_by_hand(module: Any, parameters: Sequence[Any], dropout: float) -> str | None:
    """Why a module must be trained through autograd; None where the step by hand knows all there is to it."""
    from torch.nn import Linear

    config = module.config
    if is_quantised(module):
        return "its weights are in 4 bits"
    if config.model_type not in FAMILIES:
        return f"the family '{config.model_type}' is not among {', '.join(sorted(FAMILIES))}"
    if dropout:
        return "it has dropout"
    if moving := moving_positions(config):
        return f"its rotary positions ({moving}) depend on how long a row is"
    for name, part in module.get_decoder().layers.named_modules():
        if hasattr(part, "lora_A") and (type(part) is not OneRoundingLinear or part.only_adapter() is None):
            return f"{name} is not plain LoRA"
        if name.endswith("proj") and not hasattr(part, "lora_A") and type(part) is not Linear:
            return f"{name} is a {type(part).__name__}"
    if config.hidden_act not in ("silu", "swish"):
        return f"its gate is {config.hidden_act}"
    if {id(one) for one in parameters} != {id(one) for one in in_order(module)}:
        return "more is trained than low-rank updates of its decoder's layers"
    return None if has_plain_head(module) else "its logits are more than the head's product"


def choose(
    module: Any,
    dropout: float,
    longest_tokens: int,
    neftune_alpha: float = 0.0,
) -> tuple[Step, FlatWeights, str]:
    """The fastest step that is proven for a module in training mode, its trained tensors, and what was chosen and why.

    A probe of two short sequences goes both ways, so a release of transformers that computes otherwise is found here.

    Args:
        module: what of it requires gradients is trained.
        longest_tokens: of a sequence.
    """
    trained = [(name, one) for name, one in module.named_parameters() if one.requires_grad]
    parameters, ups = [one for _, one in trained], [one for name, one in trained if any(up in name for up in UPS)]
    reason = "its embeddings get noise" if neftune_alpha else why_not_by_hand(module, parameters, dropout)
    reason = reason or _apart(module, ByHand, in_order)
    if reason is None:
        weights = FlatWeights(in_order(module), last=ups)
        return ByHand(module, weights), weights, "by hand"
    weights = FlatWeights(parameters, last=ups)
    padded = why_unknown(module) or _apart(module, lambda small, _: Packed(small, shares=True), _trained)
    step: Step
    if padded is None:
        step, how = Packed(module, shares=not (dropout or neftune_alpha)), f"packed, through autograd: {reason}"
    else:
        step, how = Padded(module, longest_tokens), f"padded, through autograd: {padded}"
    return (Noisy(step, module, neftune_alpha) if neftune_alpha else step), weights, how


def _apart(module: Any, make: Callable[[Any, FlatWeights], Step], order: Callable[[Any], list[Any]]) -> str | None:
    """What tells a step's gradient from the stock model's on two short sequences; None where nothing does.

    Asked of the model's first layers in fp32: bf16 is too coarse to tell a mistake from rounding. B starts at 0, where
    most of LoRA has no gradient: for the probe it is shaken.
    """
    try:
        small = _beginning(module)
        weights = FlatWeights(order(small))
        with torch.no_grad():
            shaken = torch.arange(len(weights.vector), dtype=torch.float32, device=module.device).mul_(12.9898).sin_()
            weights.vector.add_(shaken, alpha=0.02)
        token_losses(small, collate(PROBE_ROWS, module.device), has_plain_head(small)).sum().backward()
        wanted = weights.gradient.clone()
        weights.gradient.zero_()
        make(small, weights)(PROBE_ROWS, 1.0)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model that is not what it seems raises
        return f"a probe fails ({type(error).__name__}: {error})"
    apart = float((weights.gradient - wanted).norm() / wanted.norm())
    if apart <= LARGEST_ERROR:
        return None
    return f"its gradient differs from the stock model's by {apart:.1e} on a dozen tokens"


def _beginning(module: Any) -> Any:
    """A copy of the first layers and of a few words' embeddings, in fp32 and without dropout."""
    small = shared_copy(module)
    decoder = small.get_decoder()
    for name in ("layers", "h"):
        if layers := getattr(decoder, name, None):
            setattr(decoder, name, layers[:PROBE_LAYERS])
            break
    config = small.config.get_text_config()
    config.num_hidden_layers = min(config.num_hidden_layers, PROBE_LAYERS)
    for words in (small.get_input_embeddings(), small.get_output_embeddings()):
        words.weight.data = words.weight.data[:PROBE_WORDS]
        words.padding_idx = None
        if getattr(words, "bias", None) is not None:
            words.bias.data = words.bias.data[:PROBE_WORDS]
        for name, parameter in words.named_parameters():
            if "lora_B" in name or "lora_magnitude_vector" in name:  # of an adapted head: a row a word
                parameter.data = parameter.data[:PROBE_WORDS]
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    for name, parameter in small.named_parameters():
        parameter.requires_grad = name in trained
    return in_float32(small).eval()


def _trained(module: Any) -> list[Any]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
