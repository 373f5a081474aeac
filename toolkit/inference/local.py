"""LocalModel: a causal language model in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from toolkit.errors import ModelError
from toolkit.inference.model import FoundationModel, Generation, Sampling, Weights
from toolkit.rendering.prompt import Prompt
from toolkit.rendering.renderer import Renderer

if TYPE_CHECKING:
    from toolkit.inference.forward import Prefix
    from toolkit.models import LoadedModel

SHORTEST_PREFIX_TOKENS = 16
"""A shared prefix shorter than this is not worth a pass of its own."""


class LocalModel:
    """Weights in memory, answered from greedily or by likelihood.

    Args:
        module: a transformers causal language model, in eval mode.
        renderer: over the model's tokeniser.
        name, digest: for score tables and keys.
        context_tokens: the longest sequence the model takes.
        batch_tokens: padded tokens a batch; fixed before a run, for a batch's make-up moves bf16 results.
    """

    can_score = True
    can_be_tuned = True

    def __init__(
        self,
        module: Any,
        renderer: Renderer,
        name: str,
        digest: str,
        context_tokens: int | None,
        batch_tokens: int = 4096,
    ) -> None:
        from toolkit.inference.forward import takes_tree_masks

        self.module = module
        self.renderer = renderer
        self.name = name
        self.digest = digest
        self.context_tokens = context_tokens
        self.batch_tokens = batch_tokens
        self.fast = takes_tree_masks(module)
        self._prefix: Prefix | None = None

    @classmethod
    def of(cls, loaded: LoadedModel, batch_tokens: int = 4096) -> LocalModel:
        """From what `toolkit.models.load_pretrained` gives."""
        return cls(
            loaded.module, Renderer(loaded.tokenizer), loaded.name, loaded.digest, loaded.context_length, batch_tokens
        )

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Generation]:
        import torch

        from toolkit.inference.decoding import greedy, plain_greedy

        rows, stop_ids = _ids(prompts), self.renderer.stop_ids
        if not rows:
            return []
        with torch.inference_mode():
            if self.fast:
                prefix = self._shared(rows)
                rest = [row[len(prefix.token_ids) :] for row in rows]
                answers = greedy(self.module, rest, prefix, stop_ids, sampling.max_new_tokens, self.batch_tokens)
            else:
                answers = plain_greedy(self.module, rows, stop_ids, sampling.max_new_tokens)
        return [
            Generation(self.renderer.text(row.token_ids), tuple(row.token_ids), row.termination, row.confidence)
            for row in answers
        ]

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[tuple[float, ...]]:
        import torch

        from toolkit.inference.scoring import build_trie, plain_scores, tree_scores

        rows, choices = _ids(prompts), [tuple(map(tuple, row)) for row in continuations]
        if not rows:
            return []
        with torch.inference_mode():
            if not self.fast:
                return plain_scores(self.module, rows, choices)
            prefix = self._shared(rows)
            rest = [row[len(prefix.token_ids) :] for row in rows]
            return tree_scores(self.module, rest, [build_trie(row) for row in choices], prefix, self.batch_tokens)

    def adapted(self, weights: Weights, merged: bool = False) -> FoundationModel:
        """A view under a PEFT adapter: its modules are its own, the base's tensors are shared by reference."""
        from toolkit.models import load_adapter
        from toolkit.models import merged as merged_copy

        apply = merged_copy if merged else load_adapter
        return LocalModel(
            apply(self.module, weights.folder),
            self.renderer,
            self.name,
            f"{self.digest}+{weights.digest}{'/merged' if merged else ''}",
            self.context_tokens,
            self.batch_tokens,
        )

    def _shared(self, rows: Sequence[tuple[int, ...]]) -> Prefix:
        """The rows' longest common prefix, prefilled; the last one is kept, for the next chunk has it too."""
        from toolkit.inference.forward import common_prefix, no_prefix, prefill

        size = common_prefix(rows) if len(rows) > 1 else 0
        if size < SHORTEST_PREFIX_TOKENS:
            return no_prefix()
        shared = rows[0][:size]
        if self._prefix is None or self._prefix.token_ids != shared:
            self._prefix = prefill(self.module, shared)
        return self._prefix


def _ids(prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    rows = []
    for prompt in prompts:
        if not prompt.token_ids:
            raise ModelError("a local model needs prompts with token ids: render them with its own renderer")
        rows.append(prompt.token_ids)
    return rows
