"""LocalModel: a causal language model in this process."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from toolkit.errors import ModelError
from toolkit.inference.model import NO_NUMBERS, FoundationModel, Generation, Sampling, Weights
from toolkit.rendering.prompt import Prompt
from toolkit.rendering.renderer import Renderer
from toolkit.seeds import derive

if TYPE_CHECKING:
    from toolkit.inference.keys_values import Prefix
    from toolkit.inference.packed import Packed
    from toolkit.inference.plain import Plain
    from toolkit.inference.sampling import Row
    from toolkit.models import LoadedModel
    from toolkit.models.layouts import Layouts

KEPT_PASSES, KEPT_PASSES_GPU = 4, 8
"""Keys and values of so many passes' tokens are kept while decoding: a GPU gains more from many rows at once."""

STEP_TOKENS, STEP_TOKENS_GPU = 32, 512
"""Tokens of a prompt that take as long as a pass for one new token of a few rows, which reads all weights."""

SMALLEST_PASS = 256

Found = TypeVar("Found")


class LocalModel:
    """Weights in memory, answered from greedily, by sampling, or by likelihood.

    Args:
        module: a transformers causal language model, in eval mode.
        renderer: over the model's tokeniser.
        name, digest: for score tables and keys.
        context_tokens: the longest sequence the model takes; None where nothing says so.
        batch_tokens: tokens a forward pass; fixed before a run, for a pass's make-up moves bf16 results. On a GPU that
            runs out of memory it is halved and the work done again.
        source: where the weights come from exactly; empty where nobody says.
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
        batch_tokens: int = 2048,
        source: str = "",
    ) -> None:
        self.module = module
        self.renderer = renderer
        self.name = name
        self.digest = digest
        self.context_tokens = context_tokens
        self.batch_tokens = batch_tokens
        self.source = source
        self._prefix: Prefix | None = None
        self._views: WeakValueDictionary[tuple[Weights, bool], LocalModel] = WeakValueDictionary()

    @classmethod
    def of(cls, loaded: LoadedModel, batch_tokens: int = 2048) -> LocalModel:
        """From what `toolkit.models.load_pretrained` gives."""
        return cls(
            loaded.module,
            Renderer(loaded.tokenizer, loaded.ends),
            loaded.name,
            loaded.digest,
            loaded.context_length,
            batch_tokens,
            loaded.source,
        )

    @cached_property
    def why_plain(self) -> str | None:
        """Why this model takes the plain path, a row at a time; None where the packed one is proven for it."""
        from toolkit.inference.families import why_plain

        return why_plain(self.module)

    @cached_property
    def lean(self) -> bool:
        """Whether the packed path runs the decoder by its parts."""
        from toolkit.inference.families import is_lean

        return self.why_plain is None and is_lean(self.module)

    @property
    def path(self) -> str:
        """Which path its answers take, for the manifest."""
        if self.why_plain is not None:
            return f"plain: {self.why_plain}"
        widens, laid_out = self._packed.widens, self._packed.laid_out
        said = ["by parts"] * self.lean + ["computed in float32"] * widens + ["weights laid out"] * laid_out
        return ", ".join(["packed", *said])

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Generation]:
        import torch

        from toolkit.inference.sampling import Picker

        asked = {row: prompt.digest for row, prompt in zip(_ids(prompts), prompts, strict=True)}  # each one once
        self._refuse_long(max(map(len, asked), default=0), sampling.max_new_tokens)
        stop_ids = self.renderer.stop_ids | self.renderer.control_ids(sampling.stop)
        picker = Picker(sampling, stop_ids, self.renderer.decode)

        def answer() -> dict[tuple[int, ...], list[Row]]:
            answers = {row: _samples(digest, sampling) for row, digest in asked.items()}
            if answers:
                self._decode(answers, picker)
            return answers

        with torch.inference_mode():
            answers = self._within_memory(answer)
        return [self._generation(answers[row], sampling) for row in _ids(prompts)]

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[tuple[float, ...]]:
        import torch

        from toolkit.inference.scoring import tree_scores

        asked = [(row, tuple(map(tuple, one))) for row, one in zip(_ids(prompts), continuations, strict=True)]
        if any(not choice for _, one in asked for choice in one):
            raise ModelError("a continuation without tokens cannot be scored: end each with the stop token")
        for row, one in asked:
            self._refuse_long(len(row), max(map(len, one), default=0))
        once = list(dict.fromkeys(asked))
        rows, choices = [row for row, _ in once], [one for _, one in once]

        def score() -> list[tuple[float, ...]]:
            if not rows:
                return []
            if self.why_plain is not None:
                return self._plain.scores(rows, choices)
            found: dict[int, tuple[float, ...]] = {}
            for prefix, places in self._shared(rows):
                rest = [rows[place][len(prefix) :] for place in places]
                scores = tree_scores(self._packed, rest, [choices[place] for place in places], prefix)
                found |= dict(zip(places, scores, strict=True))
            return [found[place] for place in range(len(rows))]

        with torch.inference_mode():
            scores = dict(zip(once, self._within_memory(score), strict=True))
        if any(found and (any(map(math.isnan, found)) or max(found) == -math.inf) for found in scores.values()):
            raise ModelError(f"model '{self.name}': its scores are no numbers {NO_NUMBERS}")
        return [scores[one] for one in asked]

    def adapted(self, weights: Weights, merged: bool = False) -> FoundationModel:
        """A view under a PEFT adapter: its modules are its own, the base's tensors are shared by reference.

        As long as somebody holds it, asking again gives the same one.
        """
        view = self._views.get((weights, merged))
        if view is None:
            view = self._views[weights, merged] = self._view(weights, merged)
        return view

    def _view(self, weights: Weights, merged: bool) -> LocalModel:
        from toolkit.models import load_adapter
        from toolkit.models import merged as merged_copy
        from toolkit.models.layouts import Layouts

        apply = merged_copy if merged else load_adapter
        view = LocalModel(
            apply(self.module, weights.folder),
            self.renderer,
            self.name,
            f"{self.digest}+{weights.digest}{'/merged' if merged else ''}",
            self.context_tokens,
            self.batch_tokens,
        )
        # an adapter changes what linear layers compute, not how attention is asked nor what stands between them
        view.why_plain, view.lean = self.why_plain, self.lean
        view._layouts = Layouts(view.module.parameters(), self._layouts)
        return view

    @cached_property
    def _plain(self) -> Plain:
        from toolkit.inference.plain import Plain

        return Plain(self.module)

    @cached_property
    def _packed(self) -> Packed:
        from toolkit.inference.packed import Packed

        return Packed(self.module, self.batch_tokens, self.lean, self._layouts)

    @cached_property
    def _layouts(self) -> Layouts:
        """The weights as the processor wants them; a view under an adapter has the base's."""
        from toolkit.models.layouts import Layouts

        return Layouts(self.module.parameters())

    def _decode(self, answers: dict[tuple[int, ...], list[Row]], picker: Any) -> None:
        from toolkit.inference.decoding import Request, decode

        if self.why_plain is not None:
            for row, samples in answers.items():
                self._plain.answers([row] * len(samples), samples, picker)
            return
        on_gpu, rows = self._packed.device.type == "cuda", list(answers)
        passes, step = (KEPT_PASSES_GPU, STEP_TOKENS_GPU) if on_gpu else (KEPT_PASSES, STEP_TOKENS)
        for prefix, places in self._shared(rows, step * picker.sampling.max_new_tokens):
            requests = [Request(rows[place][len(prefix) :], answers[rows[place]]) for place in places]
            decode(self._packed, requests, prefix, picker, passes * self._packed.pass_tokens)

    def _refuse_long(self, prompt: int, answer: int) -> None:
        """An answer's last token is never read, so it may lie behind the context."""
        if self.context_tokens is not None and prompt + answer - 1 > self.context_tokens:
            raise ModelError(
                f"a prompt of {prompt} tokens and an answer of {answer} do not fit into the {self.context_tokens} that "
                f"'{self.name}' takes: shorten the prompt or the longest answer"
            )

    def _generation(self, samples: Sequence[Row], sampling: Sampling) -> Generation:
        said = [
            Generation(
                self.renderer.text(row.token_ids, sampling.stop), tuple(row.token_ids), row.termination, row.confidence
            )
            for row in samples
        ]
        first, *others = said
        return Generation(first.text, first.token_ids, first.termination, first.confidence, tuple(others))

    def _shared(self, rows: Sequence[tuple[int, ...]], more: int = 0) -> Iterator[tuple[Prefix, list[int]]]:
        """Rows by what they begin with, prefilled; the first prefix is kept, for the next chunk mostly has it too.

        Args:
            more: what a group costs beside its tokens, in tokens.
        """
        from toolkit.inference.batches import by_prefix

        for number, (size, places) in enumerate(by_prefix(rows, more)):
            shared = rows[places[0]][:size]
            if number or not size:
                yield self._packed.prefill(shared), places
                continue
            prefix = self._prefix  # asked once: another thread may set its own meanwhile
            if prefix is None or prefix.token_ids != shared:
                self._prefix = prefix = None  # the old one's memory is free before the new one's is taken
                self._prefix = prefix = self._packed.prefill(shared)
            yield prefix, places

    def _within_memory(self, work: Callable[[], Found]) -> Found:
        """Does the work; where a GPU runs out of memory, again from the start with passes of half the size."""
        import torch

        self._set_pass(self.batch_tokens)  # what a chunk gives must not depend on the chunk before it
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                if self.why_plain is not None or self._packed.pass_tokens < 2 * SMALLEST_PASS:
                    raise
                self._set_pass(self._packed.pass_tokens // 2)
            torch.cuda.empty_cache()

    def _set_pass(self, tokens: int) -> None:
        if self.why_plain is None and self._packed.pass_tokens != tokens:
            self._packed.pass_tokens, self._prefix = tokens, None


def _ids(prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    rows = []
    for prompt in prompts:
        if not prompt.token_ids:
            raise ModelError("a local model needs prompts with token ids: render them with its own renderer")
        rows.append(prompt.token_ids)
    return rows


def _samples(digest: str, sampling: Sampling) -> list[Row]:
    """The rows of one prompt's samples, each with random numbers of its own; greedy decoding has one."""
    from toolkit.inference.sampling import Row

    count = sampling.samples if sampling.temperature > 0 else 1
    return [Row(random.Random(derive(sampling.seed, f"{digest}/{number}"))) for number in range(count)]
