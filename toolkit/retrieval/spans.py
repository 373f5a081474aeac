"""Relevance by gold spans: whether retrieved passages cover the characters that hold the answer.

Spans are plain (document, start, end) with half-open character offsets, so any chunking can be measured with the same
gold. Passages are given best first. Coverage is by character and strict: white space between two chunks that belongs to
neither counts as missing.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.errors import DataError

Span = tuple[str, int, int]


def covers(passage: Span, gold: Span) -> bool:
    """Whether one passage holds the gold span whole.

    Raises:
        DataError: a span is empty or has a negative start.
    """
    _check(passage)
    _check(gold)
    return passage[0] == gold[0] and passage[1] <= gold[1] and gold[2] <= passage[2]


def covered_share(passages: Sequence[Span], gold: Span) -> float:
    """Share of the gold span's characters that are in at least one of the passages [K], 0 to 1.

    Raises:
        DataError: a span is empty or has a negative start.
    """
    for span in (*passages, gold):
        _check(span)
    document, start, end = gold
    covered, reached = 0, start
    for _, first, last in sorted(passage for passage in passages if passage[0] == document):
        first, last = max(first, reached), min(last, end)
        if last > first:
            covered += last - first
            reached = last
    return covered / (end - start)


def recall_at_k(passages: Sequence[Span], gold: Sequence[Span], k: int) -> float:
    """Share of the gold spans that the union of the first k passages covers with all their characters.

    Raises:
        DataError: there is no gold span (the metric does not apply then), k is below 1, or a span is invalid.
    """
    _check_gold(gold)
    if k < 1:
        raise DataError(f"k is {k}; allowed is 1 or more")
    return sum(covered_share(passages[:k], span) == 1.0 for span in gold) / len(gold)


def reciprocal_rank(passages: Sequence[Span], gold: Sequence[Span]) -> float:
    """1 / rank of the first passage that holds a gold span whole; 0 if none does.

    Raises:
        DataError: there is no gold span (the metric does not apply then), or a span is invalid.
    """
    _check_gold(gold)
    for rank, passage in enumerate(passages, start=1):
        if any(covers(passage, span) for span in gold):
            return 1.0 / rank
    return 0.0


def _check(span: Span) -> None:
    document, start, end = span
    if not 0 <= start < end:
        raise DataError(
            f"span {start}:{end} of document {document!r} is empty or negative; allowed is 0 <= start < end"
        )


def _check_gold(gold: Sequence[Span]) -> None:
    if not gold:
        raise DataError("no gold span was given; retrieval metrics apply only to examples with gold spans")
    for span in gold:
        _check(span)
