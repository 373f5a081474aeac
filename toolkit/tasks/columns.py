"""Rows with columns of any name, as rows of a task."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from toolkit.errors import nearest
from toolkit.tasks.contract import Kind
from toolkit.tasks.problems import excerpt
from toolkit.tasks.schema import Columns
from toolkit.tasks.tables import Row

Keep = Mapping[str, Sequence[JsonValue]]


def missing_columns(rows: Sequence[Row], columns: Columns, keep: Keep) -> list[str]:
    """Columns that are named but stand in no row, once each, with the place of the first row."""
    known = sorted({name for row in rows for name in row.values})
    return [
        f"{rows[0].where}: no column '{name}'{nearest(name, known)}; allowed: {', '.join(known)}"
        for name in dict.fromkeys([*_named(columns), *keep])
        if rows and name not in known
    ]


def keep_rows(rows: Iterable[Row], keep: Keep) -> list[Row]:
    """The rows whose values are among those kept. Compared as text: CSV has nothing else."""
    wanted = {column: {_text(value) for value in values} for column, values in keep.items()}
    return [row for row in rows if all(_text(row.values.get(column)) in wanted[column] for column in wanted)]


def unknown_values(rows: Sequence[Row], keep: Keep) -> list[str]:
    """Values of `keep` that stand in no row."""
    problems = []
    for column, values in keep.items():
        known = sorted({_text(row.values.get(column)) for row in rows})
        for value in values:
            if _text(value) not in known:
                problems.append(f"keep.{column}: no row has {value!r}{nearest(_text(value), known)}")
    return problems


def task_row(row: Row, columns: Columns, kind: Kind, prefix: str, problems: list[str]) -> Row:
    """The row under the keys of a task's own files. `prefix` names rows that have no id column."""
    cells = row.values
    values: dict[str, object] = {
        "id": f"{prefix}-{row.number}" if columns.id is None else _name(cells.get(columns.id)),
        "inputs": {name: cells.get(column) for name, column in columns.inputs.items()},
        "targets": _targets(row, columns.target, kind, problems),
    }
    if columns.group is not None:
        values["group"] = _name(cells.get(columns.group))
    if columns.slices is not None:
        values["slices"] = [_name(item) for item in _listed(cells.get(columns.slices))]
    if columns.spans is not None and cells.get(columns.spans.document) is not None:
        values["spans"] = [
            {
                "document": _name(cells[columns.spans.document]),
                "start": _number(cells.get(columns.spans.start)),
                "end": _number(cells.get(columns.spans.end)),
            }
        ]
    return Row(row.where, row.number, values)


def _named(columns: Columns) -> list[str]:
    single = [columns.target, columns.id, columns.group, columns.slices]
    spans = [] if columns.spans is None else [columns.spans.document, columns.spans.start, columns.spans.end]
    return [*columns.inputs.values(), *(name for name in single if name is not None), *spans]


def _targets(row: Row, column: str, kind: Kind, problems: list[str]) -> list[object]:
    value = row.values.get(column)
    if value is None:
        return []
    if kind != "json":
        said = [item.strip() if isinstance(item, str) else item for item in _listed(value)]
        return [_name(item) for item in said if item not in (None, "")]
    if isinstance(value, str):
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            if row.only_text:
                problems.append(f"{row.where}: column '{column}' is not JSON, found {excerpt(value)}")
            return [value]
        if row.only_text or isinstance(read, dict | list):  # elsewhere a text may be meant as one, "12" say
            return [read]
    return [value]


def _listed(value: object) -> list[object]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _name(value: object) -> object:
    """Whole numbers as text, so that the three file formats agree on ids, groups and labels."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _number(value: object) -> object:
    """Whole numbers of text and of the floats in which a table with gaps keeps them."""
    if isinstance(value, str) and value.removesuffix(".0").isdecimal():
        return int(value.removesuffix(".0"))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
