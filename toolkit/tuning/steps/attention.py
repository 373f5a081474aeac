"""Attention over the bands of a packed pass, and its gradient: plain products that keep no scores between the two.

On a CPU the fused kernels are several times slower backwards than three batched products with a softmax between them;
folding the query heads that share a key head into rows spares the copies of keys and values. Scores are made again in
the backward pass, so memory does not grow with the square of the length. Letters as in `packing`; d is a head's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from toolkit.tuning.steps.packing import Band


class Rules(NamedTuple):
    """What a layer asks of its scores: a factor, a soft cap (Gemma 2), a sliding window."""

    scale: float
    softcap: float | None = None
    window: int | None = None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bands: Sequence[Band],
    rules: Rules,
    found: torch.Tensor | None = None,
) -> torch.Tensor:
    """query [N, H * G, d] on key and value [N, H, d]: [N, H * G, d], 0 where nothing asks; `found` is filled."""
    found = torch.empty_like(query) if found is None else found
    if _has_gaps(bands, query):
        found.zero_()
    flat = found.view(-1, query.shape[-1])
    for band in bands:
        shares, _ = _shares(*_gathered(band, query, key), band, rules)
        answer = torch.bmm(shares, _picked(value, band.keys, band.rows * band.kinds)).view(-1, query.shape[-1])
        flat.index_copy_(0, band.answered, answer.index_select(0, band.real) if band.padded else answer)
    return found


def attend_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bands: Sequence[Band],
    rules: Rules,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value, shaped as they are, from that of `attend`."""
    of_query = torch.zeros_like(query) if _has_gaps(bands, query) else torch.empty_like(query)
    of_key, of_value = torch.zeros_like(key), torch.zeros_like(value)
    for band in bands:
        _band_backward(band, rules, gradient, (query, key, value), (of_query, of_key, of_value))
    return of_query, of_key, of_value


def _band_backward(
    band: Band,
    rules: Rules,
    gradient: torch.Tensor,
    given: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    """A band's part, written or added to what is found; a function, so that the next band finds the memory free."""
    (query, key, value), (of_query, of_key, of_value), size = given, found, gradient.shape[-1]
    queries, keys = _gathered(band, query, key)
    shares, slope = _shares(queries, keys, band, rules)
    upstream = _picked(gradient, band.queries, band.rows * band.kinds)
    if band.padded:
        wanted = torch.zeros_like(upstream.view(-1, size))
        wanted.index_copy_(0, band.real, upstream.view(-1, size).index_select(0, band.real))
        upstream = wanted.view_as(upstream)
    _add(of_value, torch.bmm(shares.transpose(1, 2), upstream), band)
    of_shares = torch.bmm(upstream, _picked(value, band.keys, band.rows * band.kinds).transpose(1, 2))
    of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype)
    if slope is not None:
        of_scores = of_scores * slope
    answer = _scaled(of_scores, keys, rules.scale).view(-1, size)
    of_query.view(-1, size).index_copy_(0, band.answered, answer.index_select(0, band.real) if band.padded else answer)
    _add(of_key, _scaled(of_scores.transpose(1, 2), queries, rules.scale), band)


class Attention(torch.autograd.Function):  # type: ignore[misc]
    """`attend` for autograd."""

    @staticmethod
    def forward(
        context: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bands: Any, rules: Rules
    ) -> torch.Tensor:
        context.save_for_backward(query, key, value)
        context.bands, context.rules = bands, rules
        return attend(query, key, value, bands, rules)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = context.saved_tensors
        found = attend_backward(gradient.contiguous(), query, key, value, context.bands, context.rules)
        return (*found, None, None)


def _gathered(band: Band, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[B * H, G * Q, d] and [B * H, S, d]."""
    blocks = band.rows * band.kinds
    return _picked(query, band.queries, blocks), _picked(key, band.keys, blocks)


def _picked(packed: torch.Tensor, rows: torch.Tensor, blocks: int) -> torch.Tensor:
    size = packed.shape[-1]
    return packed.view(-1, size).index_select(0, rows).view(blocks, -1, size)


def _shares(
    queries: torch.Tensor, keys: torch.Tensor, band: Band, rules: Rules
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention weights [B * H, G * Q, S], and the soft cap's slope where there is one."""
    scores, slope = _scaled(queries, keys.transpose(1, 2), rules.scale), None
    if rules.softcap is not None:
        bent = torch.tanh(scores / rules.softcap)
        scores, slope = bent * rules.softcap, 1 - bent * bent
    mask = band.mask(rules.window, scores.dtype, scores.device)
    scores.view(band.rows, -1, band.asked, scores.shape[-1]).add_(mask)
    return torch.softmax(scores, dim=-1), slope


def _scaled(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """A batched product scaled before it is rounded."""
    return torch.baddbmm(left.new_zeros(1, 1, 1), left, right, beta=0, alpha=scale)


def _add(total: torch.Tensor, found: torch.Tensor, band: Band) -> None:
    """Adds a band's [B * H, S, d] to the packed [N, H, d]: the prefix is every row's, own keys are one row's."""
    kinds, size = total.shape[1:]
    parts = found.view(band.rows, kinds, -1, size)
    if band.prefix:
        total[: band.prefix] += parts[:, :, : band.prefix].sum(dim=0).transpose(0, 1)
    if band.rows == 1:
        total[band.start : band.start + band.width] += parts[0, :, band.prefix :].transpose(0, 1)
        return
    source, packed = band.own
    own = parts[:, :, band.prefix :].reshape(-1, size)
    total.view(-1, size).index_copy_(0, packed, own.index_select(0, source) if band.own_padded else own)


def _has_gaps(bands: Sequence[Band], query: torch.Tensor) -> bool:
    return bool(sum(len(band.answered) for band in bands) < query.shape[0] * query.shape[1])
