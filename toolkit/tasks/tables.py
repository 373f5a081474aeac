"""Reading rows of .jsonl, .csv and .parquet files, each with its place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from toolkit.tasks.problems import shown

LONGEST_CELL = 2**31 - 1
"""Characters of a CSV cell, which may be a document; Python's own bound is 131,072."""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        where: its place as `file:line` (Parquet and hub data: the number of the row).
        number: from 1.
        values: by column.
        only_text: whether the format has nothing but text, so that JSON stands in it as text.
    """

    where: str
    number: int
    values: Mapping[str, object]
    only_text: bool = False


def read_table(path: Path, problems: list[str]) -> list[Row]:
    """The rows of a file by its ending; what cannot be read is added to `problems`."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        problems.append(f"{shown(path)}: '{path.suffix}' is not read; allowed: {', '.join(_READERS)}")
        return []
    if not path.is_file():
        problems.append(f"{shown(path)}: the file is missing")
        return []
    found = len(problems)
    rows = reader(path, problems)
    if not rows and len(problems) == found:
        problems.append(f"{shown(path)}: holds no rows")
    return rows


def read_jsonl(path: Path, problems: list[str]) -> list[Row]:
    """One JSON object a line; blank lines are passed over."""
    rows: list[Row] = []
    # Not splitlines(): a JSON string may hold U+2028 and other line ends that splitlines() would cut at.
    for line, text in enumerate((_text(path, problems) or "").split("\n"), start=1):
        if not text.strip():
            continue
        where = f"{shown(path)}:{line}"
        try:
            value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            problems.append(f"{where}: not JSON ({error.msg} at column {error.colno})")
            continue
        except (ValueError, RecursionError) as error:
            problems.append(f"{where}: not JSON ({error})")
            continue
        if isinstance(value, dict):
            rows.append(Row(where, line, value))
        else:
            problems.append(f"{where}: a row is a JSON object, found {type(value).__name__}")
    return rows


def _read_csv(path: Path, problems: list[str]) -> list[Row]:
    """A header and rows of text; an empty cell is None."""
    rows: list[Row] = []
    csv.field_size_limit(LONGEST_CELL)  # of the process: others' reading becomes no stricter by it
    reader = csv.reader(io.StringIO(_text(path, problems) or "", newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            where, line = f"{shown(path)}:{line}", reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = cells
                if twice := sorted({name for name in header if header.count(name) > 1}):
                    problems.append(f"{where}: columns named more than once: {', '.join(twice)}")
            elif len(cells) != len(header):
                problems.append(f"{where}: {len(cells)} cells under {len(header)} columns")
            else:
                values = {name: cell or None for name, cell in zip(header, cells, strict=True)}
                rows.append(Row(where, len(rows) + 1, values, only_text=True))
    except csv.Error as error:
        problems.append(f"{shown(path)}:{reader.line_num}: not CSV ({error})")
    return rows


def _read_parquet(path: Path, problems: list[str]) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        values = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        problems.append(f"{shown(path)}: not Parquet ({' '.join(str(error).split())})")
        return []
    return [Row(f"{shown(path)}:{number}", number, row) for number, row in enumerate(values, start=1)]


_READERS: Mapping[str, Callable[[Path, list[str]], list[Row]]] = {
    ".jsonl": read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _text(path: Path, problems: list[str]) -> str | None:
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.append(f"{shown(path)}:{line}: not UTF-8 ({error.reason} at byte {error.start})")
    except OSError as error:
        problems.append(f"{shown(path)}: cannot be read: {error.strerror}")
    return None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' stands there twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
