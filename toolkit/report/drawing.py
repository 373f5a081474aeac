"""What all drawings of the report share: colours, settings, and how a figure becomes an SVG element of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_INCHES = 9.6
INK, QUIET, RULE, GRID = "#1f2933", "#5b6673", "#d5dae1", "#edf0f3"


@contextmanager
def settled(salt: str) -> Iterator[None]:
    """Within it a figure is drawn the same everywhere.

    Args:
        salt: of the ids within the drawing: another one for each drawing of a page.
    """
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()  # a reader's own matplotlibrc changes nothing
        mpl.rcParams["svg.hashsalt"] = f"toolkit-{salt}"
        mpl.rcParams["svg.fonttype"] = "none"  # text stays text: found by search, read aloud, and small
        mpl.rcParams["text.parse_math"] = False  # names are data, not formulas
        mpl.rcParams["font.family"] = "DejaVu Sans"  # ships with matplotlib: the same layout everywhere
        mpl.rcParams["font.size"] = 9.5
        yield


def inline(figure: Figure, title: str, salt: str, described: str = "") -> str:
    """The SVG element alone: no prolog, metadata or namespaces, its ids its own.

    Args:
        title, described: for who cannot see it: what it is, and what it shows.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    opening, rest = text.split(">", 1)
    width, tall = (float(part) for part in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', opening)[0])
    rest = rest.replace('id="', f'id="{salt}-').replace("url(#", f"url(#{salt}-")
    rest = rest.replace('xlink:href="#', f'href="#{salt}-')
    opened = f'<svg viewBox="0 0 {width:g} {tall:g}" role="img" aria-label="{escape(title)}"'
    told = f"<desc>{escape(described)}</desc>" if described else ""
    return f"{opened}><title>{escape(title)}</title>{told}{rest.strip()}"
