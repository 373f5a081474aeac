"""The usage table: one row per output, its tokens by origin, calls, status and price."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import DataError
from toolkit.evaluation.parquet import read_columns, write_columns
from toolkit.tasks.output import Output

if TYPE_CHECKING:
    import pyarrow as pa

ORIGINS = ("question", "demonstrations", "passages")


@dataclass(frozen=True)
class UsageRow:
    """What one output took.

    `question`, `demonstrations`, `passages` and `other` are the prompt's tokens by origin. `price` is in US dollars,
    None where none is known. `answered_by` is empty but for hosted models.
    """

    strategy: str
    seed: int | None
    example_id: str
    question: int
    demonstrations: int
    passages: int
    other: int
    completion_tokens: int
    calls: int
    status: str
    termination: str
    price: float | None = None
    answered_by: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Of all origins."""
        return self.question + self.demonstrations + self.passages + self.other


def usage_rows(strategy: str, seed: int | None, outputs: Sequence[Output]) -> list[UsageRow]:
    """One row an output, in order."""
    rows = []
    for output in outputs:
        tokens = output.usage.prompt_tokens
        rows.append(
            UsageRow(
                strategy=strategy,
                seed=seed,
                example_id=output.example_id,
                question=tokens.get("question", 0),
                demonstrations=tokens.get("demonstrations", 0),
                passages=tokens.get("passages", 0),
                other=sum(count for origin, count in tokens.items() if origin not in ORIGINS),
                completion_tokens=output.usage.completion_tokens,
                calls=output.usage.calls,
                status=output.status,
                termination=output.termination,
                price=output.usage.price,
                answered_by=output.answered_by,
            )
        )
    return rows


def write_usage(rows: Iterable[UsageRow], path: Path) -> None:
    """Writes the table, sorted by strategy, seed and example id, whole or not at all.

    Raises:
        DataError: two rows stand for the same strategy, seed and example.
    """
    ordered = sorted(rows, key=_place)
    for before, row in pairwise(ordered):
        if _place(before) == _place(row):
            raise DataError(f"two usages of strategy '{row.strategy}', seed {row.seed}, example '{row.example_id}'")
    columns = {item.name: [getattr(row, item.name) for row in ordered] for item in fields(UsageRow)}
    write_columns(columns, _schema(), path)


def read_usage(path: Path) -> list[UsageRow]:
    """The rows of a table, in its order.

    Raises:
        DataError: no such file, not parquet, a column is missing or has another type.
    """
    table = read_columns(path, _schema(), {"answered_by": ""})  # tables of before this was recorded lack it
    return [UsageRow(**row) for row in table.to_pylist()]


def _place(row: UsageRow) -> tuple[str, int, int, str]:
    return (row.strategy, *((0, 0) if row.seed is None else (1, row.seed)), row.example_id)


def _schema() -> pa.Schema:
    import pyarrow as pa

    texts = {"strategy", "example_id", "status", "termination", "answered_by"}
    types = {name: pa.string() for name in texts} | {"price": pa.float64()}
    return pa.schema(
        [
            pa.field(item.name, types.get(item.name, pa.int64()), nullable=item.name in ("seed", "price"))
            for item in fields(UsageRow)
        ]
    )
