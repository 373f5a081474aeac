"""The plain path: a row at a time through the model's own forward pass and cache. Slow, and right for any model.

It is what the packed path is held to, and what a model takes that the packed path is not proven for.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from toolkit.inference.families import is_near, probe_ids
from toolkit.inference.sampling import Picker, Row
from toolkit.models.positions import Positions, moving_positions
from toolkit.models.weights import shared_copy

CACHES = ("cache", "past_key_values", "cache_params")
"""What releases of transformers and kinds of models call what they keep; one that keeps nothing is fed all again."""


class Plain:
    """A causal language model, asked as its own `generate` asks it, but for the batch.

    Args:
        module: left as it is: where rotary positions follow the longest row seen, a copy of the modules is run, and its
            positions start anew with each row.
    """

    def __init__(self, module: Any) -> None:
        config = module.config.get_text_config()
        moving = moving_positions(config)
        self._module = module if moving is None else shared_copy(module)
        self._positions = None if moving is None else Positions(self._module)
        self._fewer_logits = "logits_to_keep" in inspect.signature(module.forward).parameters
        self._starts_again = _starts_again(module, config) if moving == "longrope" else None

    def answers(self, rows: Sequence[Sequence[int]], answers: Sequence[Row], picker: Picker) -> None:
        """Decodes rows of token ids to the end, each into its answer."""
        for row, answer in zip(rows, answers, strict=True):
            self._forget()
            kept: dict[str, Any] = {}
            while not answer.done:
                whole = [*row, *answer.token_ids]
                if len(whole) == self._starts_again or not self._keeps:
                    kept = {}
                logits, kept = self._pass(whole[-1:] if kept else whole, 1, kept)
                picker.pick(logits[:, -1].float(), [answer])

    def scores(
        self, rows: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
    ) -> list[tuple[float, ...]]:
        """Log-likelihoods: every context and continuation in a forward pass of its own."""
        return [
            tuple(self._score(row, choice) for choice in choices)
            for row, choices in zip(rows, continuations, strict=True)
        ]

    def _score(self, row: Sequence[int], choice: Sequence[int]) -> float:
        self._forget()
        logits, _ = self._pass([*row, *choice], len(choice) + 1)
        # from the end: a prompt that was learnt stands before the row
        logs = torch.log_softmax(logits[0, -len(choice) - 1 : -1].float(), dim=-1)
        return float(logs[torch.arange(len(choice)), torch.tensor(choice)].sum())

    def _pass(
        self, token_ids: Sequence[int], wanted: int, kept: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Logits [1, T, V], of the last `wanted` tokens at least, and what the model keeps; without `kept` nothing."""
        ids = torch.tensor([list(token_ids)], device=self._module.device)
        fewer = {"logits_to_keep": wanted} if self._fewer_logits else {}
        output = self._module(input_ids=ids, use_cache=kept is not None, **fewer, **(kept or {}))
        return output.logits, next(({name: output[name]} for name in CACHES if output.get(name) is not None), {})

    @cached_property
    def _keeps(self) -> bool:
        """Whether what the model keeps serves: some kinds lose count of their positions when they are fed by it."""
        ids = probe_ids(self._module)
        wanted, _ = self._pass(ids, 1)
        found, kept = self._pass(ids[:-2], 1, {})
        for token in ids[-2:] if kept else ():
            found, kept = self._pass([token], 1, kept)
        self._forget()
        return bool(kept) and is_near(found[0, -1], wanted[0, -1], self._module.dtype)

    def _forget(self) -> None:
        if self._positions is not None:
            self._positions.forget()


def _starts_again(module: Any, config: Any) -> int | None:
    """The length at which a model of long positions forgets what it keeps, if its own `generate` does so."""
    from transformers import GenerationMixin

    if type(module).prepare_inputs_for_generation is GenerationMixin.prepare_inputs_for_generation:
        return None
    original = getattr(config, "original_max_position_embeddings", None)
    return None if original is None else int(original) + 1
