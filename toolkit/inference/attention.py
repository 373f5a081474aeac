"""Attention over a plan, in the place of transformers' own: the one function a stock model calls for every layer.

On a CPU two plain products with a softmax between them are several times as fast as the fused kernel for the shapes
of inference (few queries on many keys); query heads that share a key head are folded into rows, so keys and values are
neither repeated nor copied. Letters: N packed tokens, B rows, T tokens of a block, S own keys, P prefix keys, H
key-value heads, G query heads on each, d head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from toolkit.inference.plan import Band, Plan, Stretch

NAME = "toolkit_packed"


@dataclass(frozen=True)
class Rules:
    """What a layer asks of its scores: a factor, a soft cap (Gemma 2), a sliding window."""

    scale: float
    softcap: float | None
    window: int | None


def sliding_window(attention: Any) -> int | None:
    """Of an attention layer. Mistral's is in its configuration; of other families one there may mean nothing."""
    config = attention.config
    found: int | None = getattr(config, "sliding_window", None) if config.model_type == "mistral" else None
    return getattr(attention, "sliding_window", found)


def planned_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    plan: Plan | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of query [1, H * G, N, d] over key and value [1, H, N, d] by `plan`: [1, N, H * G, d].

    Raises:
        RuntimeError: called without a plan, or by a layer with attention sinks.
    """
    if plan is None or attention_mask is not None or s_aux is not None:
        raise RuntimeError("packed attention is called with a plan and without masks or sinks of the model's own")
    rules = Rules(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, sliding_window)
    found = attend(query[0], key[0].contiguous(), value[0].contiguous(), plan, module.layer_idx, rules)
    return found[None], None


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: Plan, layer: int, rules: Rules
) -> torch.Tensor:
    """query [H * G, N, d] on contiguous keys and values [H, N, d] by `plan`: [N, H * G, d]."""
    plan.store(layer, keys, values)
    heads, tokens, size = query.shape
    found = query.new_empty(tokens, heads, size)
    for stretch in plan.stretches:
        _stretch(found, query, keys, values, plan, stretch, layer, rules)
    for band in plan.bands:
        _band(found, query, keys, values, plan, band, layer, rules)
    if plan.steps is not None:
        _steps(found, query, keys, values, plan, layer, rules)
    return found


def _stretch(
    found: torch.Tensor,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    plan: Plan,
    one: Stretch,
    layer: int,
    rules: Rules,
) -> None:
    """One row's block: [H, G * T] queries on P + S keys."""
    kinds, size = keys.shape[0], one.stop - one.start
    asked = query[:, one.start : one.stop].reshape(kinds, -1, query.shape[-1])
    if one.first is not None:
        own_keys, own_values = keys[:, one.first : one.stop], values[:, one.first : one.stop]
    else:
        assert plan.slots is not None
        kept_keys, kept_values = plan.slots.layer(layer, keys, values)
        own_keys, own_values = kept_keys[one.slot, :, : one.kept], kept_values[one.slot, :, : one.kept]
    scores = _products(asked, own_keys, rules.scale)
    behind = len(plan.prefix)
    if behind:
        scores = torch.cat([_products(asked, plan.prefix.layers[layer][0], rules.scale), scores], dim=-1)
    scores = _capped(scores, rules)
    _add_masks(scores.view(kinds, -1, size, scores.shape[-1]), plan, one, rules)
    shares = torch.softmax(scores, dim=-1)
    answer = torch.bmm(shares[..., behind:], own_values)
    if behind:
        answer = torch.baddbmm(answer, shares[..., :behind], plan.prefix.layers[layer][1])
    found[one.start : one.stop] = answer.view(-1, size, query.shape[-1]).transpose(0, 1)


def _band(
    found: torch.Tensor,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    plan: Plan,
    one: Band,
    layer: int,
    rules: Rules,
) -> None:
    """B short rows: [B * H, G * T] queries on P + T keys each; the prefix is laid before every row's own keys."""
    kinds, size, rows, width = keys.shape[0], query.shape[-1], len(one.segments), one.width
    places, real = plan.places(one, query.device)
    asked = query.index_select(1, places).view(kinds, -1, rows, width, size).permute(2, 0, 1, 3, 4)
    before = plan.prefix.layers[layer] if len(plan.prefix) else (None, None)
    all_keys, all_values = (
        _behind_prefix(own.index_select(1, places).view(kinds, rows, width, size).transpose(0, 1), shared)
        for own, shared in zip((keys, values), before, strict=True)
    )
    scores = _products(asked.reshape(rows * kinds, -1, size), all_keys, rules.scale)
    scores = _capped(scores, rules)
    _add_masks(scores.view(rows, -1, width, scores.shape[-1]), plan, one, rules)
    answer = torch.bmm(torch.softmax(scores, dim=-1), all_values)
    answer = answer.view(rows, -1, width, size).transpose(1, 2).reshape(rows * width, -1, size)
    found[places[real]] = answer[real]


def _behind_prefix(own: torch.Tensor, shared: torch.Tensor | None) -> torch.Tensor:
    """[B, H, T, d] behind [H, P, d], as [B * H, P + T, d]."""
    if shared is None:
        return own.flatten(0, 1)
    return torch.cat([shared.expand(own.shape[0], -1, -1, -1), own], dim=2).flatten(0, 1)


def _add_masks(scores: torch.Tensor, plan: Plan, one: Stretch | Band, rules: Rules) -> None:
    """Adds what a block's tokens do not see to scores [B or H, heads, T, P + S]."""
    inside = plan.inside(one, scores)
    if inside is not None:
        scores[..., -inside.shape[-1] :] += inside if inside.dim() == 2 else inside[:, None]
    window = plan.window(one, rules.window, scores) if rules.window is not None else None
    if window is not None:
        scores += window if window.dim() == 2 else window[:, None]


def _steps(
    found: torch.Tensor,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    plan: Plan,
    layer: int,
    rules: Rules,
) -> None:
    """One token of each of B rows: the prefix in one product for all rows, own keys in one a row and head."""
    assert plan.steps is not None
    assert plan.slots is not None
    start, rows = plan.steps.start, len(plan.steps.lengths)
    kinds, size, behind = keys.shape[0], query.shape[-1], len(plan.prefix)
    asked = query[:, start : start + rows]  # [H * G, B, d]
    by_row = asked.transpose(0, 1).reshape(rows * kinds, -1, size)
    kept_keys, kept_values = plan.slots.layer(layer, keys, values)
    own_keys, own_values = kept_keys[:rows].flatten(0, 1), kept_values[:rows].flatten(0, 1)  # a cut would be a copy
    scores = _products(by_row, own_keys, rules.scale)
    shared = scores.shape[1]
    if behind:
        prefix_keys, prefix_values = plan.prefix.layers[layer]
        before = _products(asked.reshape(kinds, -1, size), prefix_keys, rules.scale)  # [H, G * B, P]
        before = before.view(kinds, shared, rows, behind).permute(2, 0, 1, 3).flatten(0, 1)
        scores = torch.cat([before, scores], dim=-1)
    scores = _capped(scores, rules)
    visible = plan.visible(scores, rules.window)
    if visible is not None:
        scores.view(rows, -1, scores.shape[-1]).add_(visible)
    shares = torch.softmax(scores, dim=-1)
    answer = torch.bmm(shares[..., behind:], own_values).view(rows, kinds, shared, size)
    if behind:
        turned = shares[..., :behind].view(rows, kinds, shared, behind).permute(1, 2, 0, 3)
        before = torch.bmm(turned.reshape(kinds, -1, behind), prefix_values)
        answer = answer + before.view(kinds, shared, rows, size).permute(2, 0, 1, 3)
    found[start : start + rows] = answer.reshape(rows, -1, size)


def _products(queries: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """queries [b, t, d] on keys [b, s, d]: [b, t, s], scaled inside the product, before it is rounded."""
    nothing = queries.new_zeros(1, 1, 1)
    return torch.baddbmm(nothing, queries, keys.transpose(1, 2), beta=0, alpha=scale)


def _capped(scores: torch.Tensor, rules: Rules) -> torch.Tensor:
    return scores if rules.softcap is None else torch.tanh(scores / rules.softcap) * rules.softcap
