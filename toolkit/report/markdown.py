"""The page as Markdown (GitHub's), block by block."""

from __future__ import annotations

import re
from collections.abc import Iterable

from toolkit.report.blocks import Block, Bullets, Card, Cell, Chart, Details, Facts, Page, Paragraph, Subheading, Table

_SPECIAL = re.compile(r"([\\`*|~$]|\](?=[(\[])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^(?:[#>+-]|\d+[.)])(?= ))")
_COMMAND = re.compile(r"(`[^`]+`)")


def as_markdown(page: Page) -> str:
    """The same blocks as the HTML page. Markup in data is escaped."""
    head = page.headline
    lines = [f"# {escaped(page.title)}", escaped(page.subtitle)]
    lines += [f"> **{escaped(head.banner)}**"] if head.banner else []
    lines.append(f"**{escaped(head.answer)}**")
    lines += [prose(line) for line in head.support]
    lines += [escaped(page.description)] if page.description else []
    lines.append(_bullets(f"{escaped(name)}: {escaped(value)}" for name, value in head.facts))
    for section in page.sections:
        lines.append(f"## {escaped(section.title)}")
        lines += [as_text(block) for block in section.blocks]
    return "\n\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Data as Markdown that shows it as it is, on one line."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _SPECIAL.sub(_backslashed, flat)


def prose(text: str) -> str:
    """Our own sentences: what stands between backticks is code, the rest is escaped."""
    return "".join(
        part.replace("|", "\\|") if _COMMAND.fullmatch(part) else escaped_within(part) for part in _COMMAND.split(text)
    )


def escaped_within(part: str) -> str:
    """A part of a sentence, its outer blanks kept."""
    before, after = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
    return f"{before}{escaped(part)}{after}" if part.strip() else part


def _backslashed(found: re.Match[str]) -> str:
    text = found.group()
    return f"{text[:-1]}\\{text[-1]}"


def as_text(block: Block) -> str:
    """One block of a page, or of a model card."""
    match block:
        case Paragraph(text):
            return prose(text)
        case Subheading(text):
            return f"### {escaped(text)}"
        case Bullets(items):
            return _bullets(map(prose, items))
        case Facts(items):
            return _bullets(f"{escaped(name)}: {escaped(value)}" for name, value in items)
        case Table():
            return _table(block)
        case Chart():
            caption = prose(block.drawn_caption or block.caption)
            return f"### {escaped(block.title)}\n\n```text\n{_fenced(block.drawn)}\n```\n\n{caption}"
        case Card():
            lines = _bullets(f"{escaped(name)}: {escaped(value)}" for name, value in block.lines)
            return f"**{escaped(block.badge)}** — {escaped(block.text)}\n\n{lines}"
        case Details():
            inner = "\n\n".join(as_text(one) for one in block.blocks)
            return f"<details>\n<summary>{_html(block.summary)}</summary>\n\n{inner}\n\n</details>"


def _table(table: Table) -> str:
    head = "| " + " | ".join(escaped(column.title) for column in table.columns) + " |"
    rule = "|" + "|".join("---:" if column.numeric else "---" for column in table.columns) + "|"
    rows = ["| " + " | ".join(map(_cell, row.cells)) + " |" for row in table.rows]
    caption = f"\n\n{prose(table.caption)}" if table.caption else ""
    return "\n".join([head, rule, *rows]) + caption


def _cell(cell: Cell) -> str:
    code = f"`{cell.code.replace('|', chr(92) + '|')}`" if cell.code and "`" not in cell.code else escaped(cell.code)
    note = escaped(cell.note)
    return "<br>".join(part for part in (escaped(cell.text), note, code) if part)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _fenced(text: str) -> str:
    """Text that cannot close its own fence."""
    return text.replace("```", "'''")


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
