"""What a tuned strategy was taught, made again by the code that made it for its training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from toolkit.errors import OverLengthError
from toolkit.rendering import TrainingSequence
from toolkit.rendering.prompt import Preference
from toolkit.strategies.adapter import Adapter
from toolkit.strategies.bench import Bench
from toolkit.strategies.conversations import chat_sequences
from toolkit.strategies.learning import WINDOW, Learn, corpus_texts, corpus_windows, row_lessons
from toolkit.strategies.strategy import Strategy
from toolkit.strategies.system import System
from toolkit.strategies.tune import TuneAdapter
from toolkit.tasks.example import Example


@dataclass(frozen=True)
class Taught:
    """One sequence that a tuned strategy learns from, or a row of train of which it learns nothing.

    Attributes:
        name: the example's id, of preferences with the answer's role behind it; which window of the corpus; or the
            conversation's `file:line`.
        sequence: None where nothing is learnt.
        how: `learnt` by itself, or `preferred` to the ones that are `rejected`.
        why_not: nothing is learnt of it.
    """

    strategy: str
    seed: int | None
    name: str
    sequence: TrainingSequence | None
    how: Literal["learnt", "preferred", "rejected"] = "learnt"
    why_not: str = ""


@dataclass(frozen=True)
class Teaching:
    """What one strategy's weights learnt from.

    Args:
        system: of the strategy and the seed, fitted.
    """

    strategy: Strategy
    seed: int | None
    system: System
    bench: Bench

    @property
    def place(self) -> int | None:
        """Of the part with the weights, if there is one."""
        return next((place for place, part in enumerate(self.system.parts) if part.weights is not None), None)

    @property
    def settings(self) -> Adapter | None:
        return None if self.place is None else self.strategy.adapters[self.place].settings

    @property
    def reads_corpus(self) -> bool:
        return isinstance(self.settings, TuneAdapter) and self.settings.learn == "corpus"

    @property
    def chats_file(self) -> Path | None:
        return self.settings.chats_file if isinstance(self.settings, TuneAdapter) else None

    def first(self, rows: int) -> list[Taught]:
        """Of the first rows of train, windows of the corpus, or conversations of a file; nothing of what was learnt
        elsewhere, or not at all.
        """
        if isinstance(self.settings, TuneAdapter) and self.settings.learn == "corpus":
            windows = corpus_windows(corpus_texts(self.bench.task), self.bench.model, self.settings.window_tokens)
            return [self._taught(f"{WINDOW}{at}", window) for at, window in enumerate(islice(windows, rows))]
        if (file := self.chats_file) is not None:
            conversations = islice(chat_sequences(file, self.bench.model.renderer), rows)
            return [self._taught(f"{file.name}:{line}", one) for line, found in conversations for one in found]
        return list(self.of(self.bench.task.train[:rows]))

    def of(self, examples: Sequence[Example]) -> Iterator[Taught]:
        """Of examples as if they were rows of train.

        The drafts are those of the parts before the one with the weights: in `[tune, retrieve]` they hold no passages.
        """
        if self.place is None or self.settings is None or not self.settings.learns_answers:
            return
        learn: Learn = self.settings.learn if isinstance(self.settings, TuneAdapter) else "answers"
        stack = Strategy(self.strategy.name, self.strategy.adapters[: self.place])
        before = System(stack, self.system.parts[: self.place], self.bench.model, self.system.conditions)
        asked = [example.unlabelled(stack.control) for example in examples]
        for example, draft in zip(examples, before.extended(asked), strict=True):
            try:
                fitted = before.fitted(draft)
            except OverLengthError:
                yield self._taught(example.id, None, why_not="it is too long for the model's context")
                continue
            items = list(row_lessons(before.renderer, draft.contract, example, fitted, learn, []).values())
            if not items:
                yield self._taught(example.id, None, why_not="it rejects no answer")
            for number, item in enumerate(items, start=1):
                if not isinstance(item, Preference):
                    yield self._taught(example.id, item)
                    continue
                if number == 1:
                    yield self._taught(f"{example.id}, chosen", item.chosen, "preferred")
                yield self._taught(f"{example.id}, rejected answer {number}", item.rejected, "rejected")

    def _taught(
        self,
        name: str,
        sequence: TrainingSequence | None,
        how: Literal["learnt", "preferred", "rejected"] = "learnt",
        why_not: str = "",
    ) -> Taught:
        return Taught(self.strategy.name, self.seed, name, sequence, how, why_not)
