"""Where a text may be cut: paragraphs, headings, sentences and words, as character offsets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_HEADING_LINE = re.compile(r"\s{0,3}#{1,6}\s+\S")
_UNDERLINE = re.compile(r"\s{0,3}(?:=+|-+)\s*$")
_ITEM_LINE = re.compile(r"\s*(?:[-*+•]\s|\d{1,3}[.)]\s|\|)")
_HEADING_MAX_WORDS = 12

# A sentence ends at . ! ? … (with closing quotes or brackets) before white space, or right after 。！？
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s+(\S))|[。！？]+[”’」』）]*(?=.)", re.DOTALL)
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]*\Z")
_WORD_WINDOW = 12  # characters looked at before a full stop, so that one endless line costs no more than many
_ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "cf", "al", "approx", "ca"})
_BEFORE_NUMBERS = frozenset({"no", "nos", "fig", "figs", "eq", "sec", "vol", "p", "pp", "v"})


@dataclass(frozen=True)
class Segment:
    """A piece of text that is cut only if it is too long on its own: a sentence, or a word of a long sentence.

    `paragraph` numbers the paragraph it is from; `heading` says that it names the text that follows.
    """

    start: int
    end: int
    paragraph: int
    heading: bool = False


@dataclass
class _Paragraph:
    start: int
    end: int
    lines: int = 1
    heading: bool = False


def sentences(text: str) -> list[Segment]:
    """Sentences of a text in order, without the white space around them; every other character is in exactly one."""
    found: list[Segment] = []
    for number, paragraph in enumerate(_paragraphs(text)):
        body = text[paragraph.start : paragraph.end]
        heading = paragraph.heading or _looks_like_heading(body, paragraph.lines)
        cuts = [] if heading else sorted({0, *_sentence_cuts(body)})
        for start, end in zip(cuts or [0], [*cuts[1:], len(body)], strict=True):
            segment = _trimmed(text, paragraph.start + start, paragraph.start + end)
            if segment is not None:
                found.append(Segment(*segment, paragraph=number, heading=heading))
    return found


def words(text: str, segment: Segment) -> list[Segment]:
    """The words of one segment, each with the paragraph of the segment; none is a heading."""
    return [
        Segment(segment.start + match.start(), segment.start + match.end(), segment.paragraph)
        for match in re.finditer(r"\S+", text[segment.start : segment.end])
    ]


def halves(segment: Segment) -> list[Segment]:
    """A segment of at least two characters cut in the middle: the last resort for text without spaces."""
    middle = (segment.start + segment.end) // 2
    return [
        Segment(segment.start, middle, segment.paragraph),
        Segment(middle, segment.end, segment.paragraph),
    ]


def _paragraphs(text: str) -> Iterator[_Paragraph]:
    """Paragraphs end at blank lines; a Markdown heading line is one of its own, with or without blank lines."""
    current: _Paragraph | None = None
    for match in _LINE.finditer(text):
        line = match.group()
        if not line.strip():
            if current is not None:
                yield current
            current = None
        elif _HEADING_LINE.match(line):
            if current is not None:
                yield current
            yield _Paragraph(match.start(), match.end(), heading=True)
            current = None
        elif current is not None and current.lines == 1 and _UNDERLINE.match(line):
            yield _Paragraph(current.start, match.end(), lines=2, heading=True)
            current = None
        elif current is None:
            current = _Paragraph(match.start(), match.end())
        else:
            current = _Paragraph(current.start, match.end(), lines=current.lines + 1)
    if current is not None:
        yield current


def _looks_like_heading(body: str, lines: int) -> bool:
    """A short single line without a full stop, as headings are in plain text and in extracted HTML."""
    stripped = body.strip()
    return (
        lines == 1
        and len(stripped.split()) <= _HEADING_MAX_WORDS
        and stripped[-1] not in '.!?…。！？"”’)'
        and not _ITEM_LINE.match(body)
    )


def _sentence_cuts(body: str) -> Iterator[int]:
    """Offsets at which a new sentence, list item or table row begins."""
    for match in _LINE.finditer(body):
        if match.start() and _ITEM_LINE.match(match.group()):
            yield match.start()
    for match in _SENTENCE_END.finditer(body):
        following = match.group(1) or ""
        if match.group()[0] == "." and (following.islower() or _is_abbreviation(body, match.start(), following)):
            continue
        yield match.end()


def _is_abbreviation(body: str, stop: int, following: str) -> bool:
    """Whether the full stop at `stop` belongs to an abbreviation, an initial or the number of a list item."""
    window = body[max(0, stop - _WORD_WINDOW) : stop]
    _, line_end, line = window.rpartition("\n")
    starts_line = bool(line_end) or stop <= _WORD_WINDOW
    if starts_line and line.strip().isdigit():
        return True
    match = _LAST_WORD.search(line)
    word = match.group() if match else ""
    if following.isdigit() and word.lower() in _BEFORE_NUMBERS:
        return True
    return word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper())


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    body = text[start:end]
    if not body.strip():
        return None
    return start + len(body) - len(body.lstrip()), start + len(body.rstrip())
