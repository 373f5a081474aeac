"""Greedy packing of segments into chunks, with overlap, headings kept with their text, paragraphs kept whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from toolkit.retrieval.segments import Segment


def pack(segments: Sequence[Segment], tokens: Sequence[int], size: int, overlap: int) -> list[tuple[int, int]]:
    """Half-open ranges of segments [n], one a chunk; together they hold every segment, each adds at least one.

    A chunk takes segments as long as their tokens sum to at most `size` (a longer segment is alone). Before that
    limit it ends early so as not to leave a heading behind, or to cut a paragraph which fits the next chunk whole
    once this one is half full. The next chunk starts with the last segments of this one, up to `overlap` tokens,
    as far as that leaves room for new text.
    """
    sums = list(accumulate(tokens, initial=0))
    ranges: list[tuple[int, int]] = []
    done = 0  # segments that are in a chunk already
    while done < len(segments):
        required = _first_text_after_headings(segments, done)
        start = done
        earliest = ranges[-1][0] + 1 if ranges else 0
        while start > earliest and sums[done] - sums[start - 1] <= overlap and sums[required] - sums[start - 1] <= size:
            start -= 1
        end = done + 1
        while end < len(segments) and sums[end + 1] - sums[start] <= size:
            end += 1
        if end < len(segments):
            end = _end_of_paragraph(segments, sums, (start, done, end), size)
            end = _before_headings(segments, done, end)
        ranges.append((start, end))
        done = end
    return ranges


def _first_text_after_headings(segments: Sequence[Segment], position: int) -> int:
    """End (exclusive) of the headings at `position` and the one segment that follows them."""
    while position < len(segments) - 1 and segments[position].heading:
        position += 1
    return position + 1


def _end_of_paragraph(segments: Sequence[Segment], sums: Sequence[int], chunk: tuple[int, int, int], size: int) -> int:
    """The end of the paragraph before the one that the chunk would cut, where that is the better place."""
    start, done, end = chunk
    paragraph = segments[end].paragraph
    if segments[end - 1].paragraph != paragraph:
        return end
    first, last = end - 1, end
    while first > start and segments[first - 1].paragraph == paragraph:
        first -= 1
    while last < len(segments) and segments[last].paragraph == paragraph and sums[last] - sums[first] <= size:
        last += 1
    fits_whole = sums[last] - sums[first] <= size
    half_full = first > done and 2 * (sums[first] - sums[start]) >= size
    return first if fits_whole and half_full else end


def _before_headings(segments: Sequence[Segment], done: int, end: int) -> int:
    """The end of the last text before trailing headings; unchanged where nothing but headings is new."""
    last = end
    while last > done and segments[last - 1].heading:
        last -= 1
    return last if last > done else end
