"""The page as one HTML file: styles and drawings within, no scripts, nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from toolkit.report.blocks import Page

ASSETS = Path(__file__).parent / "assets"


def as_html(page: Page) -> str:
    """Every text is escaped; only our styles and charts are taken as they are."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(ASSETS, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(page=page, style=style)
