"""HTML to plain text with the standard library: block elements become paragraphs, scripts and styles are dropped."""

from __future__ import annotations

from html.parser import HTMLParser

_DROPPED = frozenset({"script", "style", "template"})
# fmt: off
_PARAGRAPHS = frozenset({
    "address", "article", "aside", "blockquote", "body", "dd", "details", "dialog", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "html",
    "main", "nav", "ol", "p", "pre", "section", "summary", "table", "title", "ul",
})
# fmt: on
_LINES = frozenset({"br", "li", "tr", "option", "caption"})
_CELLS = frozenset({"td", "th"})


def html_to_text(html: str) -> str:
    """The readable text of an HTML page.

    Paragraphs are one blank line apart, list items and table rows one line, cells one space. Runs of white space
    become one space, except inside <pre>. Character references are resolved.
    """
    parser = _TextParser()
    parser.feed(html)
    parser.close()
    return "".join(parser.parts).strip()


class _TextParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._line_ends = 0  # owed before the next text
        self._space = False
        self._dropping = 0
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._dropping += tag in _DROPPED
        self._preformatted += tag == "pre"
        self._separate(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._separate(tag)  # <br/>: it opens nothing

    def handle_endtag(self, tag: str) -> None:
        if tag in _DROPPED:
            self._dropping = max(0, self._dropping - 1)
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        self._separate(tag)

    def handle_data(self, data: str) -> None:
        if self._dropping:
            return
        if self._preformatted:
            self._write(data)
            return
        words = data.split()
        self._space |= data[:1].isspace()
        if words:
            self._write(" ".join(words))
            self._space = data[-1:].isspace()

    def _separate(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self._line_ends = 2
        elif tag in _LINES:
            self._line_ends = max(self._line_ends, 1)
        elif tag in _CELLS:
            self._space = True

    def _write(self, text: str) -> None:
        if self.parts and self._line_ends:
            self.parts.append("\n" * self._line_ends)
        elif self.parts and self._space:
            self.parts.append(" ")
        self.parts.append(text)
        self._line_ends, self._space = 0, False
