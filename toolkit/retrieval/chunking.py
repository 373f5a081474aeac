"""Cutting documents into chunks that fit the encoder, with offsets into the original text.

Chunks are packed from whole sentences; only a sentence that is too long on its own is cut at words, and only a word
that is too long at characters. Lengths are counted by the encoder's own tokenizer, so nothing is ever truncated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from toolkit.errors import DataError
from toolkit.retrieval.documents import Document
from toolkit.retrieval.packing import pack
from toolkit.retrieval.segments import Segment, halves, sentences, words

Count = Callable[[list[str]], list[int]]


@dataclass(frozen=True)
class Chunking:
    """How documents are cut: at most `size_tokens` a chunk, up to `overlap_tokens` of whole sentences shared.

    The default of 160 tokens is about one paragraph of a manual and leaves room in any encoder of 256 or more; the
    overlap of 32 is about one sentence, so an answer that straddles two chunks is whole in one of them.

    Raises:
        DataError: `size_tokens` is below 1, or `overlap_tokens` is not in 0..size_tokens - 1.
    """

    size_tokens: int = 160
    overlap_tokens: int = 32

    def __post_init__(self) -> None:
        if self.size_tokens < 1:
            raise DataError(f"size_tokens is {self.size_tokens}; allowed is 1 or more")
        if not 0 <= self.overlap_tokens < self.size_tokens:
            raise DataError(
                f"overlap_tokens is {self.overlap_tokens}; allowed is 0 to {self.size_tokens - 1} "
                f"(below size_tokens, which is {self.size_tokens})"
            )

    def as_dict(self) -> dict[str, int]:
        """The settings by name, as the manifest of an index holds them."""
        return asdict(self)


@dataclass(frozen=True)
class Chunk:
    """One passage: `text` is `document.text[start:end]`, half-open, in characters; `document` is the id."""

    document: str
    start: int
    end: int
    text: str


def chunk_documents(documents: Sequence[Document], chunking: Chunking, count: Count) -> list[Chunk]:
    """Chunks of all documents, in order of document and position.

    Every character that is not white space is in at least one chunk, and no chunk has more than `size_tokens`.
    A heading is kept in the chunk of the text after it. A document of white space alone gives no chunk.

    Args:
        documents: the corpus.
        chunking: size and overlap in tokens.
        count: texts [n] -> tokens [n], without special tokens; called on many texts at once.

    Raises:
        DataError: a single character has more tokens than a chunk may have.
    """
    segments, tokens = _cut_to_size(documents, chunking.size_tokens, count)
    chunks: list[list[Chunk]] = [[] for _ in documents]
    budgets = dict.fromkeys(range(len(documents)), chunking.size_tokens)
    # The tokens of a chunk need not be the sum over its sentences (byte-pair encodings join across them, blank lines
    # may be tokens of their own). So whole chunks are counted, and a document with one that is too long is packed
    # again with less. It ends: with a budget of 1 every chunk is one segment, which is known to fit.
    while budgets:
        for which, budget in budgets.items():
            ranges = pack(segments[which], tokens[which], budget, min(chunking.overlap_tokens, budget - 1))
            chunks[which] = [_chunk(documents[which], segments[which], first, last) for first, last in ranges]
        texts = [chunk.text for which in budgets for chunk in chunks[which]]
        sizes = iter(count(texts) if texts else [])
        longest = {which: max((next(sizes) for _ in chunks[which]), default=0) for which in budgets}
        budgets = {
            which: max(1, min(budget - 1, budget * chunking.size_tokens // longest[which]))
            for which, budget in budgets.items()
            if longest[which] > chunking.size_tokens and budget > 1
        }
    return [chunk for of_document in chunks for chunk in of_document]


def _chunk(document: Document, segments: list[Segment], first: int, last: int) -> Chunk:
    start, end = segments[first].start, segments[last - 1].end
    return Chunk(document.id, start, end, document.text[start:end])


def _cut_to_size(documents: Sequence[Document], size: int, count: Count) -> tuple[list[list[Segment]], list[list[int]]]:
    """Segments and their tokens, per document. Cuts sentences that are too long into words, words into halves.

    Every round counts the new pieces of all documents in one call.
    """
    segments = [sentences(document.text) for document in documents]
    tokens = _count_segments(documents, segments, count)
    while True:
        cuts = [
            {at: _cut(document, found[at]) for at in _too_long(document.text, found, sizes, size)}
            for document, found, sizes in zip(documents, segments, tokens, strict=True)
        ]
        if not any(cuts):
            return segments, tokens
        pieces = [[piece for at in cut for piece in cut[at]] for cut in cuts]
        new = [iter(sizes) for sizes in _count_segments(documents, pieces, count)]
        for which, cut in enumerate(cuts):
            if cut:
                old = list(zip(segments[which], tokens[which], strict=True))
                parts = [[(p, next(new[which])) for p in cut[at]] if at in cut else [old[at]] for at in range(len(old))]
                segments[which] = [segment for part in parts for segment, _ in part]
                tokens[which] = [size for part in parts for _, size in part]


def _too_long(text: str, segments: list[Segment], tokens: list[int], size: int) -> list[int]:
    """Positions of segments that do not fit a chunk, or fit only without the heading they belong to."""
    found: list[int] = []
    headings = 0  # tokens of the headings right before
    for position, (segment, own) in enumerate(zip(segments, tokens, strict=True)):
        with_heading = own + (headings if not segment.heading and 2 * headings <= size else 0)
        if own > size or (with_heading > size and len(words(text, segment)) > 1):
            found.append(position)
        headings = headings + own if segment.heading else 0
    return found


def _cut(document: Document, segment: Segment) -> list[Segment]:
    pieces = words(document.text, segment)
    if len(pieces) > 1:
        return pieces
    if segment.end - segment.start == 1:
        character = document.text[segment.start]
        raise DataError(
            f"document {document.id!r}, character {segment.start}: {character!a} alone has more tokens than a chunk "
            "may have; raise size_tokens"
        )
    return halves(segment)


def _count_segments(documents: Sequence[Document], segments: list[list[Segment]], count: Count) -> list[list[int]]:
    """Tokens of every segment; at least 1, so that packing always knows more segments from fewer."""
    texts = [
        document.text[segment.start : segment.end]
        for document, found in zip(documents, segments, strict=True)
        for segment in found
    ]
    sizes = iter(count(texts) if texts else [])
    return [[max(1, next(sizes)) for _ in found] for found in segments]
