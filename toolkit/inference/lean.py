"""The decoder of the Llama kind without its stock modules: the same products, fewer and smaller steps between them.

A pass for one new token of a few rows is mostly what surrounds its products: a stock layer makes some hundred calls, of
which a third are needed. Adapted layers (LoRA of any kind) are called as they are. Used where a probe finds the stock
model's states. Letters: N packed tokens, D hidden, H key-value heads, G query heads on each, d head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from toolkit.inference.attention import Rules, attend, sliding_window
from toolkit.inference.plan import Plan
from toolkit.models.layouts import LaidOut
from toolkit.models.widening import Widened

LEAN_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})

Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Layer:
    """One decoder layer's parts; a norm of heads where the family has one."""

    index: int
    rules: Rules
    before_attention: Map
    query: Map
    key: Map
    value: Map
    query_norm: Map | None
    key_norm: Map | None
    out: Map
    before_mlp: Map
    gate: Map
    up: Map
    down: Map


def why_not_lean(module: Any) -> str | None:
    """Why a model's own modules must be run; None where nothing about them is unusual."""
    config = module.config
    if config.model_type not in LEAN_FAMILIES:
        return f"the family '{config.model_type}' is not among {', '.join(sorted(LEAN_FAMILIES))}"
    if config.hidden_act not in ("silu", "swish"):
        return f"its gate is {config.hidden_act}"
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
        return "something listens to its modules"
    return None


class Lean:
    """A decoder by its parts, which stay the module's own.

    Args:
        module: of a family in `LEAN_FAMILIES`, adapted or not.
        computing: of the states; the linear layers take them.
    """

    def __init__(self, module: Any, computing: torch.dtype) -> None:
        decoder, config = module.get_decoder(), module.config
        self._computing = computing
        self._embed, self._rotary = decoder.embed_tokens, decoder.rotary_emb
        self._norm = _norm(decoder.norm)
        self._heads = config.num_attention_heads, config.num_key_value_heads
        self._layers = [_layer(layer) for layer in decoder.layers]

    def __call__(self, token_ids: torch.Tensor, positions: torch.Tensor, plan: Plan) -> torch.Tensor:
        """token_ids [N] and positions [N] -> hidden states [N, D] behind the last norm."""
        x = self._embed(token_ids).to(self._computing)
        cosine, sine = self._rotary(x[None], positions[None])
        half = cosine.shape[-1] // 2
        cosine, sine = cosine[0, :, :half], sine[0, :, :half]
        asking, kinds = self._heads
        for layer in self._layers:
            normal = layer.before_attention(x)
            query = _turned(_by_head(layer.query(normal), asking, layer.query_norm), cosine, sine)
            key = _turned(_by_head(layer.key(normal), kinds, layer.key_norm), cosine, sine)
            value = _by_head(layer.value(normal), kinds, None).contiguous()
            answer = attend(query, key, value, plan, layer.index, layer.rules)
            x = layer.out(answer.flatten(1)).add_(x)
            normal = layer.before_mlp(x)
            gated = functional.silu(layer.gate(normal), inplace=True).mul_(layer.up(normal))
            x = layer.down(gated).add_(x)
        return self._norm(x)


def _by_head(x: torch.Tensor, heads: int, norm: Map | None) -> torch.Tensor:
    """[N, heads * d] -> a view [heads, N, d], each head normalised where the family does so."""
    split = x.view(len(x), heads, -1)
    return (split if norm is None else norm(split)).transpose(0, 1)


def _turned(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary positions on x [heads, N, d], which comes out contiguous."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    found = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(first, cosine, out=found[..., :half]).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=found[..., half:]).addcmul_(first, sine)
    return found


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    query_norm, key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return _Layer(
        index=attention.layer_idx,
        rules=Rules(attention.scaling, None, sliding_window(attention)),
        before_attention=_norm(layer.input_layernorm),
        query=_map(attention.q_proj),
        key=_map(attention.k_proj),
        value=_map(attention.v_proj),
        query_norm=None if query_norm is None else _norm(query_norm),
        key_norm=None if key_norm is None else _norm(key_norm),
        out=_map(attention.o_proj),
        before_mlp=_norm(layer.post_attention_layernorm),
        gate=_map(mlp.gate_proj),
        up=_map(mlp.up_proj),
        down=_map(mlp.down_proj),
    )


def _map(module: Any) -> Map:
    """A linear layer as its product alone; anything else as it is."""
    if type(module) is torch.nn.Linear:
        return partial(functional.linear, weight=module.weight, bias=module.bias)
    found: Map = module.forward if isinstance(module, LaidOut | Widened) else module
    return found


def _norm(module: Any) -> Map:
    """Root mean square normalisation in fp32, rounded where the stock module rounds; a wrapped one as it is."""
    if not hasattr(module, "variance_epsilon") or hasattr(module, "original_module"):
        found: Map = module
        return found
    weight, epsilon = module.weight, float(module.variance_epsilon)

    def normalised(x: torch.Tensor) -> torch.Tensor:
        # A length reads x once; torch's own norm writes its squares out first.
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        factor = length.square_().mul_(1 / x.shape[-1]).add_(epsilon).rsqrt_()
        wide = x * factor if x.dtype == torch.float32 else x.float().mul_(factor)
        return wide.to(x.dtype).mul_(weight)

    return normalised
