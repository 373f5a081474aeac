"""Which models the packed path is exact for. What cannot be proven takes the plain path, and the reason is recorded."""

from __future__ import annotations

from typing import Any

import torch

from toolkit.inference.attention import sliding_window
from toolkit.inference.lean import why_not_lean
from toolkit.models.positions import moving_positions

PROVEN_FAMILIES = frozenset({"gemma", "gemma2", "gemma3_text", "gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Model types whose attention asks for nothing but a scale, a soft cap and a sliding window, and whose logits are the
head's product, softly capped or not."""

ATTENTION = frozenset({"full_attention", "sliding_attention"})
PROBE_TOKENS = 12
LARGEST_ERROR = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Of hidden states against the model's own forward pass, relative to their length."""


def why_plain(module: Any) -> str | None:
    """Why a model must take the plain path; None where the packed one is proven.

    Beside what its configuration says, a dozen tokens are run both ways: a release of transformers in which a family
    computes otherwise is found here and not in results.
    """
    if reason := why_unknown(module):
        return reason
    with torch.inference_mode():
        return _probe(module, lean=False)


def is_lean(module: Any) -> bool:
    """Whether a model whose packed path is proven may run its decoder by parts; asked as `why_plain` asks."""
    with torch.inference_mode():
        return why_not_lean(module) is None and _probe(module, lean=True) is None


def why_unknown(module: Any) -> str | None:
    """What a model's configuration says that packed attention does not know; None where it says nothing of the kind."""
    config = module.config
    if config.model_type not in PROVEN_FAMILIES:
        return f"the family '{config.model_type}' is not among {', '.join(sorted(PROVEN_FAMILIES))}"
    if getattr(module, "prompt_encoder", None) is not None:
        return "it is tuned by a prefix"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds - ATTENTION:
        return f"it has layers of {', '.join(sorted(kinds - ATTENTION))}"
    if strange := _strange_window(module, config):
        return strange
    if moving := moving_positions(config):
        return f"its rotary positions ({moving}) depend on how long a row is"
    if getattr(config, "use_bidirectional_attention", False):
        return "it attends to what comes after a token"
    if getattr(config, "add_cross_attention", False):
        return "it attends to another model"
    return None


def _strange_window(module: Any, config: Any) -> str | None:
    """A layer whose own window is not what its kind in the configuration says: the masks may follow either."""
    said = getattr(config, "layer_types", None) or ()
    for number, (kind, layer) in enumerate(zip(said, getattr(module.get_decoder(), "layers", ()), strict=False)):
        window = config.sliding_window if kind == "sliding_attention" else None
        if sliding_window(layer.self_attn) != window:
            return f"layer {number} is said to be of {kind}, and its own window is {sliding_window(layer.self_attn)}"
    return None


def _probe(module: Any, lean: bool) -> str | None:
    from toolkit.inference.packed import Packed
    from toolkit.inference.plan import Plan, Segment

    ids = probe_ids(module)
    two = ids[: PROBE_TOKENS // 2]
    plan = Plan([Segment(0, len(ids)), Segment(len(ids), len(two))])
    try:
        packed = Packed(module, lean=lean).forward(ids + two, plan).float()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model that is not what it seems raises
        return f"its forward pass fails when packed ({type(error).__name__}: {error})"
    wanted = module.get_decoder()(input_ids=torch.tensor([ids], device=module.device), use_cache=False)
    right = wanted.last_hidden_state[0].float()
    for found, expected in ((packed[: len(ids)], right), (packed[len(ids) :], right[: len(two)])):
        if not is_near(found, expected, module.dtype):
            return f"packed and alone differ by {_apart(found, expected):.1e} on a dozen tokens"
    return None


def probe_ids(module: Any) -> list[int]:
    """A dozen tokens of its vocabulary."""
    limit = min(module.config.get_text_config().vocab_size, 1000)
    return [(7 * place * place + 3 * place + 11) % limit for place in range(PROBE_TOKENS)]


def is_near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two ways to the same states or logits agree, for what the weights are in."""
    return _apart(found, expected) <= LARGEST_ERROR.get(dtype, 1e-3)


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.float(), expected.float()
    return float((found - expected).norm() / expected.norm())
