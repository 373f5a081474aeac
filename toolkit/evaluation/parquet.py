"""Parquet files with a fixed schema: the same rows give the same bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


def write_columns(columns: Mapping[str, Sequence[object]], schema: pa.Schema, path: Path) -> None:
    """Writes columns of equal length, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(dict(columns), schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        pq.write_table(table, unfinished, compression="zstd")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_columns(path: Path, schema: pa.Schema, absent: Mapping[str, object] | None = None) -> pa.Table:
    """The schema's columns; further ones are left out.

    Args:
        absent: values for columns that an older file may lack.

    Raises:
        DataError: no such file, not parquet, a column is missing, has another type or nulls where none may be.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        table = pq.ParquetFile(path).read()
        for name, value in (absent or {}).items():
            if name not in table.column_names:
                table = table.append_column(name, pa.array([value] * table.num_rows, schema.field(name).type))
        if missing := [name for name in schema.names if name not in table.column_names]:
            raise DataError(
                f"{path}: columns are missing: {', '.join(missing)}; found: {', '.join(table.column_names)}"
            )
        found = table.select(schema.names).cast(schema)
    except DataError:
        raise
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: not a table of this kind: {error}") from error
    for item in schema:  # a cast looks for nulls in columns, not within their lists
        if pa.types.is_list(item.type) and any(chunk.flatten().null_count for chunk in found.column(item.name).chunks):
            raise DataError(f"{path}: not a table of this kind: nulls within the lists of '{item.name}'")
    return found
