"""Blocks: what the report consists of, before it is a page or Markdown. Both are made of the same blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Tone = Literal["", "BETTER", "WORSE", "EQUIVALENT", "UNRESOLVED", "SMOKE", "refused", "quiet", "flag"]


@dataclass(frozen=True)
class Paragraph:
    kind: ClassVar[str] = "paragraph"
    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Subheading:
    kind: ClassVar[str] = "subheading"
    text: str


@dataclass(frozen=True)
class Bullets:
    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    kind: ClassVar[str] = "facts"
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Column:
    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """`note` stands smaller, on its own line; `code` is a command; `tone` makes the text a badge."""

    text: str
    note: str = ""
    code: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Row:
    cells: tuple[Cell, ...]
    style: Literal["", "control", "first"] = ""


@dataclass(frozen=True)
class Table:
    kind: ClassVar[str] = "table"
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    texts: bool = False
    """Cells hold sentences: columns share the width and lines wrap."""


@dataclass(frozen=True)
class Chart:
    """A drawing (SVG), and the same in characters for Markdown, each with its caption: by default the same."""

    kind: ClassVar[str] = "chart"
    title: str
    svg: str
    drawn: str
    caption: str
    drawn_caption: str = ""


@dataclass(frozen=True)
class Card:
    """One contrast: its verdict, its sentence, and the facts it rests on."""

    kind: ClassVar[str] = "card"
    badge: str
    tone: Tone
    text: str
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Details:
    """Folded until a reader opens it."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: tuple[Block, ...]


Block = Paragraph | Subheading | Bullets | Facts | Table | Chart | Card | Details


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Headline:
    """The answer, before anything else. `banner` is set where there is no verdict to give."""

    answer: str
    support: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    banner: str = ""


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    description: str
    headline: Headline
    sections: tuple[Section, ...]
