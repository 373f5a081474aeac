"""JSON Lines: records appended to a file one by one, and read back whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolkit.errors import RunError


def dumps(record: Any) -> str:
    """Compact JSON with sorted keys: equal content gives equal bytes."""
    return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """One JSON line at the end of a file; half a line that stands there is ended first.

    Raises:
        RunError: the disk says no.
    """
    line = (dumps(dict(record)) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell() and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n":
                line = b"\n" + line
            file.write(line)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole JSON lines of a file; torn ones are left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().splitlines():  # a text's would also be cut where a string holds U+2028
        with suppress(ValueError):
            records.append(json.loads(line))
    return records
