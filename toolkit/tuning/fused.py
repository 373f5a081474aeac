"""A training step by hand for decoders of the Llama kind: forward and backward without autograd.

What autograd keeps and computes for LoRA on a stock model is several times what is needed: the base's weights have no
gradient, norms and gates can be made again from what they start from, the layers that read the same tensor can share a
product with their adapters, the first layer's input needs no gradient, and the last layer's queries and its MLP matter
only where something is predicted. Held to the stock model's autograd by tests, and by a probe before each training.
Letters: N packed tokens, M predicting ones, D hidden, H key-value heads, G query heads on each, d head size, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from toolkit.tuning.attention import Rules, attend, attend_backward
from toolkit.tuning.elements import Norm, Turn, norm_of
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.groups import Group, Linear, Update
from toolkit.tuning.loss import frozen_head
from toolkit.tuning.objective import OfTokens, summed
from toolkit.tuning.packing import Packed

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})


@dataclass(frozen=True)
class Layer:
    """One decoder layer's parts."""

    before_attention: Norm
    attention: Group
    query_norm: Norm | None
    key_norm: Norm | None
    out: Group
    before_mlp: Norm
    gates: Group
    down: Group
    rules: Rules


@dataclass
class Kept:
    """What a layer's backward pass starts from."""

    x: torch.Tensor
    factor: torch.Tensor
    small: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    normed: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None
    answer: torch.Tensor
    small_out: torch.Tensor
    middle: torch.Tensor
    middle_factor: torch.Tensor
    small_gates: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    small_down: torch.Tensor


class FusedStep:
    """Loss and gradient of a pass over a decoder of the Llama kind whose linear layers have LoRA updates.

    Args:
        module: the adapted model's own class, with PEFT's layers in it.
        weights: holds all of the adapter's tensors.
        recompute: keep only what enters each layer and run it again backwards: less memory, a third more products.
    """

    def __init__(self, module: Any, weights: FlatWeights, recompute: bool = False) -> None:
        decoder = module.get_decoder()
        self._embeddings, self._norm = decoder.embed_tokens, norm_of(decoder.norm)
        self._rotary, self._head = decoder.rotary_emb, module.get_output_embeddings()
        self._weights, self._recompute = weights, recompute
        self._compute = torch.empty(len(weights.vector), dtype=module.dtype, device=module.device)
        config = module.config
        self.heads = (config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads)
        self._scaled: list[tuple[torch.Tensor, float]] = []
        self._layers = [self._layer(layer) for layer in decoder.layers]

    def __call__(self, batch: Packed, share: float, of_tokens: OfTokens = summed) -> torch.Tensor:
        """Adds `share` times the gradient of the batch's loss to the weights' and gives that loss.

        Args:
            of_tokens: the batch's loss by those of its tokens.
        """
        with torch.no_grad():
            self._refresh()
            x, turn = self._begin(batch)
            kept: list[Kept | torch.Tensor] = []
            for layer in self._layers[:-1]:
                found, after = self._forward(layer, x, turn, batch, last=False)
                kept.append(x if self._recompute else found)
                x = after
            last, x = self._forward(self._layers[-1], x, turn, batch, last=True)
            states, factor = self._norm.forward(x)
            losses, gradient = frozen_head(states, self._head.weight, self._head.bias, batch.targets)
            loss = of_tokens(losses)
            if loss.slopes is not None:
                gradient *= loss.slopes[:, None]
            gradient = self._norm.backward(gradient.mul_(share), x, factor)
            backwards = self._backward(self._layers[-1], last, gradient, turn, batch, True, len(self._layers) > 1)
            for index in reversed(range(len(self._layers) - 1)):
                layer, found = self._layers[index], kept.pop()
                if isinstance(found, torch.Tensor):
                    found, _ = self._forward(layer, found, turn, batch, last=False)
                assert backwards is not None
                backwards = self._backward(layer, found, backwards, turn, batch, False, index > 0)
        return loss.total

    def token_losses(self, batch: Packed) -> torch.Tensor:
        """The loss of each of the batch's supervised tokens [M] in nats; nothing is kept."""
        with torch.no_grad():
            self._refresh()
            x, turn = self._begin(batch)
            for layer in self._layers:
                _, x = self._forward(layer, x, turn, batch, last=layer is self._layers[-1])
            states, _ = self._norm.forward(x)
            return frozen_head(states, self._head.weight, self._head.bias, batch.targets)[0]

    def _begin(self, batch: Packed) -> tuple[torch.Tensor, Turn]:
        """What enters the first layer [N, D], and the rotary positions."""
        x = self._embeddings(batch.ids)
        cosine, sine = self._rotary(x[None], batch.positions[None])
        half = cosine.shape[-1] // 2
        return x, Turn(cosine[0, :, None, :half], sine[0, :, None, :half])

    def _refresh(self) -> None:
        """The weights as they are now, in the model's dtype, B times its scale."""
        self._compute.copy_(self._weights.vector.detach())
        for up, scale in self._scaled:
            up.mul_(scale)

    def _forward(
        self, layer: Layer, x: torch.Tensor, turn: Turn, batch: Packed, last: bool
    ) -> tuple[Kept, torch.Tensor]:
        """x [N, D] -> what is kept, and the layer's output: [N, D], of the last layer [M, D]."""
        normal, factor = layer.before_attention.forward(x)
        (query, key, value), small = layer.attention.forward(normal)
        size = query.shape[-1] // (self.heads[0] * self.heads[1])
        query, key, value = (one.view(len(x), -1, size) for one in (query, key, value))
        normed = None
        if layer.query_norm is not None and layer.key_norm is not None:
            plain = query, key
            query, query_factor = layer.query_norm.forward(query)
            key, key_factor = layer.key_norm.forward(key)
            normed = (*plain, query_factor, key_factor)
        query, key = turn.forward(query), turn.forward(key)
        bands = batch.last_bands if last else batch.bands
        answer = attend(query, key, value, bands, layer.rules).view(len(x), -1)
        if last:
            answer, through = answer[batch.predicting], x[batch.predicting]
        else:
            through = x
        (out,), small_out = layer.out.forward(answer)
        middle = out.add_(through)
        normal, middle_factor = layer.before_mlp.forward(middle)
        (gate, up), small_gates = layer.gates.forward(normal)
        (down,), small_down = layer.down.forward(functional.silu(gate).mul_(up))
        kept = Kept(
            x, factor, small, query, key, value, normed, answer, small_out,
            middle, middle_factor, small_gates, gate, up, small_down,
        )  # fmt: skip
        return kept, down.add_(middle)

    def _backward(
        self, layer: Layer, kept: Kept, gradient: torch.Tensor, turn: Turn, batch: Packed, last: bool, wanted: bool
    ) -> torch.Tensor | None:
        """The gradient of the layer's output, shaped as that -> of its input [N, D], where that is wanted."""
        silu = functional.silu(kept.gate)
        of_gated = layer.down.backward([gradient], silu * kept.up, kept.small_down)
        assert of_gated is not None
        of_up = silu.mul_(of_gated)
        of_gate = torch.ops.aten.silu_backward(of_gated.mul_(kept.up), kept.gate)
        normal = layer.before_mlp.again(kept.middle, kept.middle_factor)
        of_normal = layer.gates.backward([of_gate, of_up], normal, kept.small_gates)
        assert of_normal is not None
        of_middle = layer.before_mlp.backward(of_normal, kept.middle, kept.middle_factor).add_(gradient)

        of_answer = layer.out.backward([of_middle], kept.answer, kept.small_out)
        assert of_answer is not None
        if last:
            whole = of_answer.new_zeros(len(kept.x), of_answer.shape[-1])
            of_answer = whole.index_add_(0, batch.predicting, of_answer)
        bands = batch.last_bands if last else batch.bands
        of_answer = of_answer.view_as(kept.query)
        found = attend_backward(of_answer, kept.query, kept.key, kept.value, bands, layer.rules)
        of_query, of_key, of_value = turn.backward(found[0]), turn.backward(found[1]), found[2]
        if kept.normed is not None and layer.query_norm is not None and layer.key_norm is not None:
            query, key, query_factor, key_factor = kept.normed
            of_query = layer.query_norm.backward(of_query, query, query_factor)
            of_key = layer.key_norm.backward(of_key, key, key_factor)
        normal = layer.before_attention.again(kept.x, kept.factor)
        flat = [one.reshape(len(normal), -1) for one in (of_query, of_key, of_value)]
        of_normal = layer.attention.backward(flat, normal, kept.small, wanted)
        if of_normal is None:
            return None
        of_x = layer.before_attention.backward(of_normal, kept.x, kept.factor)
        return of_x.index_add_(0, batch.predicting, of_middle) if last else of_x.add_(of_middle)

    def _layer(self, layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        query_norm, key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        window = getattr(attention.config, "sliding_window", None)  # where layers differ, each has its own
        return Layer(
            before_attention=norm_of(layer.input_layernorm),
            attention=self._group(attention.q_proj, attention.k_proj, attention.v_proj),
            query_norm=None if query_norm is None else norm_of(query_norm),
            key_norm=None if key_norm is None else norm_of(key_norm),
            out=self._group(attention.o_proj),
            before_mlp=norm_of(layer.post_attention_layernorm),
            gates=self._group(mlp.gate_proj, mlp.up_proj),
            down=self._group(mlp.down_proj),
            rules=Rules(attention.scaling, window=getattr(attention, "sliding_window", window)),
        )

    def _group(self, *modules: Any) -> Group:
        return Group([self._linear(module) for module in modules])

    def _linear(self, module: Any) -> Linear:
        base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        if base is module:
            return Linear(base.weight, base.bias, None)
        (name,) = module.active_adapters
        down, up = module.lora_A[name].weight, module.lora_B[name].weight
        scale = float(module.scaling[name])
        down_place, up_place = self._weights.place(down), self._weights.place(up)
        scaled = self._compute[up_place].view_as(up)
        if scale != 1:
            self._scaled.append((scaled, scale))
        gradient = self._weights.gradient
        update = Update(
            self._compute[down_place].view_as(down),
            scaled,
            gradient[down_place].view_as(down),
            gradient[up_place].view_as(up),
            scale,
        )
        return Linear(base.weight, base.bias, update)


def in_order(module: Any) -> list[Any]:
    """The trained tensors, so that those that share a product lie together: each group's A, then its B."""
    found: list[Any] = []
    for layer in module.get_decoder().layers:
        attention, mlp = layer.self_attn, layer.mlp
        for group in (
            (attention.q_proj, attention.k_proj, attention.v_proj),
            (attention.o_proj,),
            (mlp.gate_proj, mlp.up_proj),
            (mlp.down_proj,),
        ):
            adapted = [(one, one.active_adapters[0]) for one in group if hasattr(one, "lora_A")]
            found += [one.lora_A[name].weight for one, name in adapted]
            found += [one.lora_B[name].weight for one, name in adapted]
    return found
