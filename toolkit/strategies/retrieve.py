"""retrieve: passages of the task's corpus in front of the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from toolkit.errors import DataError
from toolkit.rendering.draft import Draft, Passage
from toolkit.strategies.adapter import Adapter, Dependency, FitContext, Part
from toolkit.strategies.texts import question_of, tell_long_questions
from toolkit.tasks.task import TrainingTask

if TYPE_CHECKING:
    from toolkit.retrieval import Hit, Retriever


class RetrieveAdapter(Adapter):
    """Exact dense retrieval over the task's corpus.

    Attributes:
        top_k: passages a question.
        size_tokens, overlap_tokens: of a chunk, in the embedder's tokens.
    """

    top_k: int = Field(default=3, ge=1)
    size_tokens: int = Field(default=160, ge=16)
    overlap_tokens: int = Field(default=32, ge=0)

    def depends_on(self) -> frozenset[Dependency]:
        return frozenset({"encoder", "corpus"})

    def check(self, task: TrainingTask) -> list[str]:
        if task.corpus is None:
            return [f"task '{task.name}' has no corpus to retrieve from: add a `corpus/` folder or `corpus:`"]
        return []

    def fit(self, context: FitContext) -> Part:
        tell_long_questions(context)
        return RetrievedPassages(self.retriever(context), self.top_k)

    def load(self, folder: Path, context: FitContext) -> Part:
        from toolkit.retrieval import Retriever

        return RetrievedPassages(Retriever.load(folder, context.encoder), self.top_k)

    def retriever(self, context: FitContext) -> Retriever:
        """The index of the corpus; built once for a corpus, a chunking and an embedder, whoever asks."""
        from toolkit.retrieval import Chunking, Retriever, corpus_digest, read_corpus

        if context.task.corpus is None:
            raise DataError(f"task '{context.task.name}' has no corpus to retrieve from")
        documents = read_corpus(context.task.corpus)
        chunking = Chunking(self.size_tokens, self.overlap_tokens)
        content = {
            "index": "flat-1",
            "corpus": corpus_digest(documents),
            "chunking": [self.size_tokens, self.overlap_tokens],
            "encoder": context.encoder.digest,
        }

        def build(folder: Path) -> None:
            context.meter.event("index", documents=len(documents))
            with context.meter.stage("index"):
                Retriever.build(documents, chunking, context.encoder).save(folder)

        return Retriever.load(context.cached(content, build), context.encoder)


class RetrievedPassages(Part):
    """The chunks nearest to the question, best first."""

    def __init__(self, retriever: Retriever, top_k: int) -> None:
        self._retriever, self._top_k = retriever, top_k

    def extend(self, drafts: Sequence[Draft]) -> list[Draft]:
        found = self._retriever.search([question_of(draft.example) for draft in drafts], top_k=self._top_k)
        return [draft.with_passages([passage(hit) for hit in hits]) for draft, hits in zip(drafts, found, strict=True)]

    def save(self, folder: Path) -> None:
        self._retriever.save(folder)

    def describe(self) -> Mapping[str, Any]:
        return {"index_bytes": self._retriever.size_bytes, "chunks": len(self._retriever.chunks)}


def passage(hit: Hit) -> Passage:
    return Passage(hit.document, hit.start, hit.end, hit.text, hit.score, hit.rank)
