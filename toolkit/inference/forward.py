"""One forward pass over a decoder: shared prefix, body, head on chosen rows only.

Letters: B batch, T new tokens, P prefix tokens, D hidden, V vocabulary, R scored rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

PROVEN_FAMILIES = frozenset({"llama", "qwen2", "qwen3", "mistral", "gpt2", "smollm3"})
"""Model types whose attention takes a 4D mask and whose logits are the head's product, nothing more."""

HEAD_ROWS = 256
"""Rows of the vocabulary product made at once, so that no large temporary is."""


def takes_tree_masks(module: Any) -> bool:
    """Whether the fast path is exact for this model: full attention everywhere, a plain head."""
    config = module.config
    if config.model_type not in PROVEN_FAMILIES or getattr(module, "prompt_encoder", None) is not None:
        return False
    if config._attn_implementation not in {"sdpa", "eager"}:
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return kinds == {"full_attention"} and (not sliding or config.model_type in {"qwen2", "qwen3"})


def common_prefix(rows: Sequence[tuple[int, ...]]) -> int:
    """Tokens all rows share at their start, at least one token of every row left over."""
    first, last = min(rows), max(rows)
    limit = min(len(row) for row in rows) - 1
    for position in range(limit):
        if first[position] != last[position]:
            return position
    return max(0, limit)


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a shared prefix: per layer two tensors [1, heads, P, head size]."""

    token_ids: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def cache(self, rows: int, config: Any) -> Any:
        """A key-value cache that begins with the prefix, for so many rows."""
        from transformers import DynamicCache

        cache = DynamicCache(config=config)
        for layer, (keys, values) in enumerate(self.layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return cache


def no_prefix() -> Prefix:
    return Prefix((), ())


def prefill(module: Any, token_ids: Sequence[int]) -> Prefix:
    """Runs the prefix once, in a batch of one."""
    ids = torch.tensor([list(token_ids)], device=module.device)
    cache = module.get_decoder()(input_ids=ids, use_cache=True).past_key_values
    return Prefix(tuple(token_ids), tuple((layer.keys, layer.values) for layer in cache.layers))


def body(module: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
    """Hidden states [B, T, D] of new tokens [B, T] under a boolean mask [B, 1, T, P + T] (True attends)."""
    allowed = mask
    if module.config._attn_implementation == "eager":
        lowest = torch.finfo(module.dtype).min
        allowed = torch.zeros(mask.shape, dtype=module.dtype, device=mask.device).masked_fill_(~mask, lowest)
    output = module.get_decoder()(
        input_ids=ids, attention_mask=allowed, position_ids=positions, past_key_values=cache, use_cache=True
    )
    hidden: torch.Tensor = output.last_hidden_state
    return hidden


def head(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [R, V] in fp32 of hidden rows [R, D]."""
    logits: torch.Tensor = module.get_output_embeddings()(hidden)
    return logits.float()


def log_probabilities(module: Any, hidden: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log p(tokens[i] | hidden[rows[i]]) in fp32, shape [len(rows)]; the head is applied once a hidden row [R, D].

    `rows` must be sorted. Where the head is a plain product, a token's own logit is made in fp32: in bf16 it would be
    rounded to steps of an eighth, which decides between close choices.
    """
    plain = type(module.get_output_embeddings()) is torch.nn.Linear and module.get_output_embeddings().bias is None
    found = torch.empty(len(rows), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(hidden), HEAD_ROWS):
        logits = head(module, hidden[start : start + HEAD_ROWS])
        norm = torch.logsumexp(logits, dim=-1)
        inside = (rows >= start) & (rows < start + HEAD_ROWS)
        local = rows[inside] - start
        if plain:
            wanted = module.get_output_embeddings().weight[tokens[inside]].float()
            own = (hidden[rows[inside]].float() * wanted).sum(dim=-1)
        else:
            own = logits[local, tokens[inside]]
        found[inside] = own - norm[local]
    return found
