"""Keeps the files shown in `docs/*.md` equal to the files they are: `python docs/include.py [--check]`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r"(<!-- file: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def included(text: str) -> str:
    """The page with every named file's content in its place."""

    def shown(match: re.Match[str]) -> str:
        code = (ROOT / match[2]).read_text(encoding="utf-8").rstrip()
        return f"{match[1]}```python\n{code}\n```\n{match[3]}"

    return PLACE.sub(shown, text)


def main() -> int:
    stale = False
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        fresh = included(text)
        stale |= fresh != text
        if "--check" not in sys.argv:
            page.write_text(fresh, encoding="utf-8")
    return int(stale and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
