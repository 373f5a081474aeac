"""Controls: strategies that bracket retrieval. Shown beside the candidates, never as one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from toolkit.errors import DataError
from toolkit.rendering.draft import Draft, Passage
from toolkit.retrieval.spans import Span, covered_share
from toolkit.seeds import derive
from toolkit.strategies.adapter import FitContext, Part
from toolkit.strategies.retrieve import RetrieveAdapter, passage
from toolkit.strategies.texts import question_of

if TYPE_CHECKING:
    from toolkit.retrieval import Chunk, Retriever


class OracleAdapter(RetrieveAdapter):
    """What perfect retrieval would give: the chunks that hold the gold spans first, the nearest others behind.

    As many passages as `retrieve` with the same `top_k`, so the two differ in what is found, not in how much is read.
    """

    control: ClassVar[bool] = True

    def fit(self, context: FitContext) -> Part:
        return OraclePassages(self.retriever(context), self.top_k)

    def load(self, folder: Path, context: FitContext) -> Part:
        return self.fit(context)


class OraclePassages(Part):
    def __init__(self, retriever: Retriever, top_k: int) -> None:
        self._retriever, self._top_k = retriever, top_k
        self._chunks: dict[str, list[Chunk]] = {}
        for chunk in retriever.chunks:
            self._chunks.setdefault(chunk.document, []).append(chunk)

    def extend(self, drafts: Sequence[Draft]) -> list[Draft]:
        found = self._retriever.search([question_of(draft.example) for draft in drafts], top_k=self._top_k)
        return [
            draft.with_passages(self._gold_first(draft, [passage(hit) for hit in hits]))
            for draft, hits in zip(drafts, found, strict=True)
        ]

    def _gold_first(self, draft: Draft, nearest: list[Passage]) -> list[Passage]:
        held = [self._holding((span.document, span.start, span.end)) for span in draft.example.spans]
        gold = [item for row in zip_longest(*held) for item in row if item is not None]  # of each span the best first
        places = {(item.document, item.start) for item in gold}
        others = [item for item in nearest if (item.document, item.start) not in places]
        chosen = [*dict.fromkeys(gold), *others][: self._top_k]
        return [replace(item, rank=rank) for rank, item in enumerate(chosen, start=1)]

    def _holding(self, span: Span) -> list[Passage]:
        """The chunk that holds most of a span, then those that add most of what is missing."""
        chosen: list[Chunk] = []
        held = 0.0

        def share(chunk: Chunk) -> float:
            return covered_share([_span(one) for one in (*chosen, chunk)], span)

        while held < 1:
            best = max(self._chunks.get(span[0], ()), key=share, default=None)
            if best is None or share(best) <= held:
                break
            held = share(best)
            chosen.append(best)
        if not chosen:
            raise DataError(f"gold span {span[1]}:{span[2]} of document '{span[0]}' is in no passage of the corpus")
        return [Passage(chunk.document, chunk.start, chunk.end, chunk.text) for chunk in chosen]


def _span(chunk: Chunk) -> Span:
    return (chunk.document, chunk.start, chunk.end)


class RandomPassagesAdapter(RetrieveAdapter):
    """What reading anything at all does: seeded random chunks, as many as `retrieve` shows."""

    control: ClassVar[bool] = True

    @property
    def seeded(self) -> bool:
        return True

    def fit(self, context: FitContext) -> Part:
        return RandomPassages(self.retriever(context), self.top_k, context.seed)

    def load(self, folder: Path, context: FitContext) -> Part:
        return self.fit(context)


class RandomPassages(Part):
    def __init__(self, retriever: Retriever, top_k: int, seed: int) -> None:
        self._retriever, self._top_k, self._seed = retriever, top_k, seed

    def extend(self, drafts: Sequence[Draft]) -> list[Draft]:
        return [draft.with_passages(self._drawn(draft.example.id)) for draft in drafts]

    def _drawn(self, example_id: str) -> list[Passage]:
        generator = random.Random(derive(self._seed, f"random passages/{example_id}"))
        chunks = self._retriever.chunks
        drawn = generator.sample(range(len(chunks)), min(self._top_k, len(chunks)))
        return [
            Passage(chunks[place].document, chunks[place].start, chunks[place].end, chunks[place].text, rank=rank)
            for rank, place in enumerate(drawn, start=1)
        ]
