"""A training step by hand for decoders of the Llama kind: forward and backward without autograd.

What autograd keeps and computes for LoRA on a stock model is several times what is needed: the base's weights have no
gradient, norms and gates can be made again from what they start from, the layers that read the same tensor can share a
product with their adapters, the first layer's input needs no gradient, and the last layer's queries and its MLP matter
only where something is predicted. Held to the stock model's autograd by tests, and by a probe before each training.
Letters: N packed tokens, M predicting ones, D hidden, H key-value heads, G query heads on each, d head size, r rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from toolkit.inference.attention import sliding_window
from toolkit.models.widening import computing_dtype_of
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.objective import OfTokens, summed
from toolkit.tuning.steps.attention import Rules, attend, attend_backward
from toolkit.tuning.steps.elements import Turn, norm_of, wide
from toolkit.tuning.steps.groups import Group, Linear, Update
from toolkit.tuning.steps.layer import Kept, Layer, kept_shapes
from toolkit.tuning.steps.loss import frozen_head, head_shapes
from toolkit.tuning.steps.packing import Packed
from toolkit.tuning.steps.room import Room, Shape

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})


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
        self._weights, self.recompute, self.computing = weights, recompute, computing_dtype_of(module)
        self._compute = torch.empty(len(weights.vector), dtype=self.computing, device=module.device)
        config = module.config
        self.heads = (config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads)
        self._scaled: list[tuple[torch.Tensor, float]] = []
        self._layers = [self._layer(layer) for layer in decoder.layers]
        self._room = Room(module.device)

    def __call__(self, batch: Packed, share: float, of_tokens: OfTokens = summed) -> torch.Tensor:
        """Adds `share` times the gradient of the batch's loss to the weights' and gives that loss.

        Args:
            of_tokens: the batch's loss by those of its tokens.
        """
        with torch.no_grad():
            self._refresh()
            x, turn = self._begin(batch)
            self._room.open(self.kept_bytes(batch.tokens, len(batch.predicting)))
            kept: list[tuple[torch.Tensor, Kept | None]] = []
            for layer in self._layers:
                last = layer is self._layers[-1]
                (after,) = self._room.take([self._output(batch.tokens, len(batch.predicting), last)])
                bottom = self._room.used
                found = self._forward(layer, x, after, turn, batch, last)
                if self.recompute and not last:
                    self._room.back_to(bottom)
                kept.append((x, None if self.recompute and not last else found))
                x = after
            states, factor = self._normalised(x)
            losses, gradient = self._head_losses(states, batch.targets)
            loss = of_tokens(losses)
            if loss.slopes is not None:
                gradient *= loss.slopes[:, None]
            gradient = self._norm.backward(gradient.mul_(share), x, factor)
            del states
            for layer in reversed(self._layers):
                x, again = kept.pop()
                if again is None:
                    self._room.back_to(bottom)
                    again = self._forward(layer, x, None, turn, batch, last=False)
                gradient = self._backward_mlp(layer, again, gradient)
                last = layer is self._layers[-1]
                gradient = self._backward_attention(layer, x, again, gradient, turn, batch, last, wanted=bool(kept))
        return loss.total

    def token_losses(self, batch: Packed) -> torch.Tensor:
        """The loss of each of the batch's supervised tokens [M] in nats; nothing is kept."""
        with torch.no_grad():
            self._refresh()
            x, turn = self._begin(batch)
            self._room.open(self.kept_bytes(batch.tokens, len(batch.predicting), recompute=True))
            for layer in self._layers:
                last = layer is self._layers[-1]
                after = x.new_empty(self._output(batch.tokens, len(batch.predicting), last).sizes)
                self._room.back_to(0)
                self._forward(layer, x, after, turn, batch, last)
                x = after
            states, _ = self._normalised(x)
            return self._head_losses(states, batch.targets)[0]

    def kept_bytes(self, tokens: int, predicting: int, recompute: bool | None = None) -> int:
        """The room of a pass over N tokens, M of them predicting: for what it keeps until it goes back, and logits.

        Args:
            recompute: as the step itself, where it is not given.
        """
        outputs, layers = 0, []
        for layer in self._layers:
            last = layer is self._layers[-1]
            outputs += self._output(tokens, predicting, last).bytes
            shapes = kept_shapes(layer, self.heads, tokens, predicting if last else tokens, self.computing)
            layers.append(sum(shape.bytes for shape in shapes))
        again = self.recompute if recompute is None else recompute
        logits = head_shapes(predicting, len(self._head.weight), self.computing)
        return outputs + (max(layers) if again else sum(layers)) + sum(shape.bytes for shape in logits)

    def reserve(self, size: int) -> None:
        """Makes room for the largest pass before a smaller one is computed, whose room would be too small for it."""
        self._room.open(size)

    def give_back(self) -> None:
        """Frees the room between passes."""
        self._room.give_back()

    def _output(self, tokens: int, predicting: int, last: bool) -> Shape:
        """Of a layer's output."""
        return Shape((predicting if last else tokens, self._embeddings.weight.shape[1]), self.computing)

    def _begin(self, batch: Packed) -> tuple[torch.Tensor, Turn]:
        """What enters the first layer [N, D], and the rotary positions."""
        x = self._embeddings(batch.ids).to(self.computing)
        cosine, sine = self._rotary(x[None], batch.positions[None])
        half = cosine.shape[-1] // 2
        return x, Turn(cosine[0, :, None, :half], sine[0, :, None, :half])

    def _head_losses(self, states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of states [M, D] the losses [M] and their gradient."""
        return frozen_head(states, self._head.weight, self._head.bias, targets, self._room)

    def _normalised(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the head reads [M, D] of the last layer's output, and the norm's factor."""
        factor = x.new_empty((len(x), 1), dtype=wide(x.dtype))
        return self._norm.forward(x, factor), factor

    def _refresh(self) -> None:
        """The weights as they are now, in the states' dtype, B times its scale."""
        self._compute.copy_(self._weights.vector.detach())
        for up, scale in self._scaled:
            up.mul_(scale)

    def _forward(
        self, layer: Layer, x: torch.Tensor, after: torch.Tensor | None, turn: Turn, batch: Packed, last: bool
    ) -> Kept:
        """x [N, D] -> what is kept; the layer's output is written to `after`: [N, D], of the last layer [M, D]."""
        asking = len(batch.predicting) if last else len(x)
        kept = Kept(*self._room.take(kept_shapes(layer, self.heads, len(x), asking, x.dtype)))
        normal = layer.before_attention.forward(x, kept.factor)
        places = kept.plain_query, kept.plain_key, kept.value.view(len(x), -1)
        query, key, _ = layer.attention.forward(normal, kept.small, places)
        query, key = query.view_as(kept.query), key.view_as(kept.key)
        if layer.query_norm is not None and kept.query_factor is not None:
            query = layer.query_norm.forward(query, kept.query_factor)
        if layer.key_norm is not None and kept.key_factor is not None:
            key = layer.key_norm.forward(key, kept.key_factor)
        turn.forward(query, kept.query)
        turn.forward(key, kept.key)
        if last:
            answer = attend(kept.query, kept.key, kept.value, batch.last_bands, layer.rules).view(len(x), -1)
            torch.index_select(answer, 0, batch.predicting, out=kept.answer)
            x = x[batch.predicting]
        else:
            attend(kept.query, kept.key, kept.value, batch.bands, layer.rules, kept.answer.view_as(kept.query))
        layer.out.forward(kept.answer, kept.small_out, [kept.middle])
        kept.middle.add_(x)
        normal = layer.before_mlp.forward(kept.middle, kept.middle_factor)
        layer.gates.forward(normal, kept.small_gates, [kept.gate, kept.up])
        gated = functional.silu(kept.gate).mul_(kept.up)
        if after is None:
            layer.down.project(gated, kept.small_down)
        else:
            layer.down.forward(gated, kept.small_down, [after])
            after.add_(kept.middle)
        return kept

    def _backward_mlp(self, layer: Layer, kept: Kept, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of the layer's output, [N, D] or of the last layer [M, D] -> of what attention has left."""
        silu = functional.silu(kept.gate)
        of_gated = _there(layer.down.backward([gradient], silu * kept.up, kept.small_down))
        of_up = silu.mul_(of_gated)
        of_gate = torch.ops.aten.silu_backward(of_gated.mul_(kept.up), kept.gate)
        normal = layer.before_mlp.again(kept.middle, kept.middle_factor)
        of_normal = _there(layer.gates.backward([of_gate, of_up], normal, kept.small_gates))
        return layer.before_mlp.backward(of_normal, kept.middle, kept.middle_factor).add_(gradient)

    def _backward_attention(
        self,
        layer: Layer,
        x: torch.Tensor,
        kept: Kept,
        of_middle: torch.Tensor,
        turn: Turn,
        batch: Packed,
        last: bool,
        wanted: bool,
    ) -> torch.Tensor:
        """What `_backward_mlp` gives -> the gradient of the layer's input x [N, D]; empty where none is wanted."""
        of_answer = _there(layer.out.backward([of_middle], kept.answer, kept.small_out))
        if last:
            whole = of_answer.new_zeros(len(x), of_answer.shape[-1])
            of_answer = whole.index_add_(0, batch.predicting, of_answer)
        bands = batch.last_bands if last else batch.bands
        of_answer = of_answer.view_as(kept.query)
        found = attend_backward(of_answer, kept.query, kept.key, kept.value, bands, layer.rules)
        of_query, of_key, of_value = turn.backward(found[0]), turn.backward(found[1]), found[2]
        if layer.query_norm is not None and kept.plain_query is not None and kept.query_factor is not None:
            plain = kept.plain_query.view_as(kept.query)
            of_query = layer.query_norm.backward(of_query, plain, kept.query_factor)
        if layer.key_norm is not None and kept.plain_key is not None and kept.key_factor is not None:
            of_key = layer.key_norm.backward(of_key, kept.plain_key.view_as(kept.key), kept.key_factor)
        normal = layer.before_attention.again(x, kept.factor)
        flat = [one.reshape(len(normal), -1) for one in (of_query, of_key, of_value)]
        of_normal = layer.attention.backward(flat, normal, kept.small, wanted)
        if of_normal is None:
            return x[:0]
        of_x = layer.before_attention.backward(of_normal, x, kept.factor)
        return of_x.index_add_(0, batch.predicting, of_middle) if last else of_x.add_(of_middle)

    def _layer(self, layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        query_norm, key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        return Layer(
            before_attention=norm_of(layer.input_layernorm),
            attention=self._group(attention.q_proj, attention.k_proj, attention.v_proj),
            query_norm=None if query_norm is None else norm_of(query_norm),
            key_norm=None if key_norm is None else norm_of(key_norm),
            out=self._group(attention.o_proj),
            before_mlp=norm_of(layer.post_attention_layernorm),
            gates=self._group(mlp.gate_proj, mlp.up_proj),
            down=self._group(mlp.down_proj),
            rules=Rules(attention.scaling, window=sliding_window(attention)),
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


def _there(gradient: torch.Tensor | None) -> torch.Tensor:
    """A gradient that was wanted."""
    assert gradient is not None
    return gradient
