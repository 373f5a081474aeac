"""Rows of a dataset on the hub, through the `datasets` library."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, get_args

from toolkit.errors import DataError
from toolkit.tasks.schema import Data, SourceKey
from toolkit.tasks.tables import Row

SOURCES: tuple[SourceKey, ...] = get_args(SourceKey)


def read_hub(data: Data) -> dict[SourceKey, list[Row]]:
    """The rows by split, or all under `all` where the recipe names one split. Class labels become their names.

    Raises:
        DataError: the library is missing, or the dataset cannot be read or has no `train`.
    """
    load_dataset = _library()
    try:
        found = load_dataset(data.hub, name=data.config, revision=data.revision, split=data.split)
    except Exception as error:
        what = f"hub dataset '{data.hub}' at revision '{data.revision}'"
        raise DataError(f"{what} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if data.split is not None:
        return {"all": _rows(found, f"hub:{data.hub}[{data.split}]")}
    tables: Mapping[str, Any] = found
    if "train" not in tables:
        raise DataError(
            f"hub dataset '{data.hub}' has no split 'train', only {', '.join(sorted(tables))}: name one with `split`"
        )
    return {key: _rows(tables[key], f"hub:{data.hub}[{key}]") for key in SOURCES if key != "all" and key in tables}


def _library() -> Any:
    # A folder named `datasets` on the path (ours, in a checkout) imports as an empty namespace where the library is
    # missing, so the function itself is asked for.
    try:
        return importlib.import_module("datasets").load_dataset
    except (ImportError, AttributeError):
        raise DataError(
            'hub data needs the library `datasets`, which is not installed: pip install "adaptation-toolkit[hub]"'
        ) from None


def _rows(table: Any, place: str) -> list[Row]:
    names = {
        column: list(feature.names)
        for column, feature in table.features.items()
        if type(feature).__name__ == "ClassLabel"
    }
    rows = []
    for number, values in enumerate(table, start=1):
        readable = {
            column: names[column][value] if column in names and isinstance(value, int) and value >= 0 else value
            for column, value in values.items()
        }
        rows.append(Row(f"{place}:{number}", number, readable))
    return rows
