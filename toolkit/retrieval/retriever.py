"""The retriever: a corpus cut, encoded and indexed once, then searched by lists of queries."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import DataError
from toolkit.retrieval.chunking import Chunk, Chunking, chunk_documents
from toolkit.retrieval.documents import Document, corpus_digest
from toolkit.retrieval.encoder import Encoder, Vectors
from toolkit.retrieval.index import FlatIndex, faiss_version
from toolkit.retrieval.manifest import Manifest
from toolkit.retrieval.storage import load_index, save_index


@dataclass(frozen=True)
class Hit:
    """A passage that was found: `text` is characters start:end of `document`; `score` is cosine, `rank` from 1."""

    document: str
    start: int
    end: int
    text: str
    score: float
    rank: int


class Retriever:
    """Exact dense retrieval over one corpus. Made by `build` or `load`.

    Attributes:
        chunks: the passages [n], in order of document and position.
        manifest: what the index was built from.
        encoder: the encoder that queries go through; the one the passages went through.
    """

    def __init__(self, chunks: Sequence[Chunk], index: FlatIndex, encoder: Encoder, manifest: Manifest) -> None:
        self.chunks: tuple[Chunk, ...] = tuple(chunks)
        self.encoder = encoder
        self.manifest = manifest
        self._index = index

    @classmethod
    def build(cls, documents: Sequence[Document], chunking: Chunking, encoder: Encoder) -> Retriever:
        """Cut, encode and index a corpus.

        Raises:
            DataError: the corpus holds no text or an id twice, or a chunk may be longer than the encoder reads.
            ModelError: the encoder gives vectors that are not finite and normalised.
        """
        _refuse_duplicates(documents)
        if chunking.size_tokens > encoder.max_tokens:
            raise DataError(
                f"size_tokens is {chunking.size_tokens}, the encoder reads {encoder.max_tokens} tokens: chunks would "
                f"lose their ends; allowed is 1 to {encoder.max_tokens}"
            )
        chunks = chunk_documents(documents, chunking, encoder.count_tokens)
        if not chunks:
            raise DataError(f"the corpus is empty: {len(documents)} documents, none with text")
        vectors = _encode_once([chunk.text for chunk in chunks], encoder)
        manifest = Manifest(
            corpus_digest=corpus_digest(documents),
            document_count=len(documents),
            chunk_count=len(chunks),
            chunking=chunking.as_dict(),
            encoder_digest=encoder.digest,
            dimension=encoder.dimension,
            files={},
            versions={"faiss": faiss_version()},
        )
        return cls(chunks, FlatIndex(vectors), encoder, manifest)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """The best `top_k` passages of each query, best first; all passages where there are fewer.

        Queries are encoded in one call and searched in one call. Equal scores are ordered by position. How many
        queries were too long for the encoder is `encoder.truncated`.

        Raises:
            DataError: `top_k` is below 1, or `queries` is one string.
        """
        if isinstance(queries, str):
            raise DataError(f"queries is one string ({queries[:60]!r}); expected a list of them")
        if not queries:
            return []
        scores, positions = self._index.search(self.encoder.encode_queries(queries), top_k)
        return [
            [
                Hit(chunk.document, chunk.start, chunk.end, chunk.text, score, rank)
                for rank, (score, chunk) in enumerate(zip(row, map(self.chunks.__getitem__, found), strict=True), 1)
            ]
            for row, found in zip(scores.tolist(), positions.tolist(), strict=True)
        ]

    @property
    def size_bytes(self) -> int:
        """Bytes of the vectors and of the passages' text in UTF-8."""
        return self._index.size_bytes + sum(len(chunk.text.encode("utf-8")) for chunk in self.chunks)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write manifest.json, chunks.jsonl and index.faiss; saving twice gives the same bytes."""
        save_index(Path(folder), self.manifest, self.chunks, self._index)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        encoder: Encoder,
        *,
        documents: Sequence[Document] | None = None,
        chunking: Chunking | None = None,
    ) -> Retriever:
        """Load what `save` wrote, for the encoder it was built with.

        Args:
            folder: where it was saved.
            encoder: must have the digest in the manifest.
            documents: if given, must be the corpus that was indexed.
            chunking: if given, must be the settings it was cut with.

        Raises:
            DataError: encoder, corpus or chunking is another than the manifest names, or a file is missing or damaged.
        """
        path = Path(folder)
        manifest = Manifest.read(path)
        manifest.refuse_other(path, "encoder_digest", encoder.digest)
        manifest.refuse_other(path, "dimension", encoder.dimension)
        if documents is not None:
            manifest.refuse_other(path, "corpus_digest", corpus_digest(documents))
        if chunking is not None:
            manifest.refuse_other(path, "chunking", chunking.as_dict())
        chunks, index = load_index(path, manifest)
        return cls(chunks, index, encoder, manifest)


def _encode_once(texts: Sequence[str], encoder: Encoder) -> Vectors:
    """Vectors [n, D]; equal texts are encoded once, so that they share one vector and tie exactly."""
    row = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    vectors = encoder.encode_passages(list(row))
    return vectors if len(row) == len(texts) else vectors[[row[text] for text in texts]]


def _refuse_duplicates(documents: Sequence[Document]) -> None:
    seen: set[str] = set()
    for document in documents:
        if document.id in seen:
            raise DataError(f"document id {document.id!r} is used twice; ids must be unique in a corpus")
        seen.add(document.id)
