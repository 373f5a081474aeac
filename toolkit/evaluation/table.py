"""The score table: one row per strategy x seed x example x metric, the only hand-off to statistics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import DataError, nearest
from toolkit.evaluation.metric import Metric
from toolkit.evaluation.parquet import read_columns, write_columns
from toolkit.tasks.contract import AnswerContract
from toolkit.tasks.example import Example
from toolkit.tasks.output import Output

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScoreRow:
    """One value.

    `seed` is None for a strategy without a seeded part; `group` is the cluster of the statistics; `statistics` add up
    over examples to what the metric's `aggregate` takes.
    """

    strategy: str
    model: str
    answer_by: str
    seed: int | None
    example_id: str
    group: str
    slices: tuple[str, ...]
    metric: str
    metric_version: str
    value: float
    statistics: tuple[float, ...]


@dataclass(frozen=True)
class MetricArrays:
    """One strategy, seed and metric: n examples in the order of their ids.

    `values` is [n], `statistics` [n, k].
    """

    example_ids: tuple[str, ...]
    values: Floats
    statistics: Floats
    groups: tuple[str, ...]


def score_outputs(
    strategy: str,
    model: str,
    answer_by: str,
    seed: int | None,
    examples: Sequence[Example],
    outputs: Sequence[Output],
    metrics: Sequence[Metric],
    contract: AnswerContract,
) -> list[ScoreRow]:
    """Rows by metric, then by example in the order given. A metric that does not apply to an example gives no row.

    Raises:
        DataError: examples and outputs do not match one to one by id.
    """
    pairs = paired(examples, outputs)
    retrieves = any(output.retrieved for output in outputs)
    rows = []
    for metric in (metric for metric in metrics if retrieves or not metric.of_retrieval):
        for example, output in pairs:
            if not metric.applies(example, output, contract):
                continue
            scored = metric.score(example, output, contract)
            rows.append(
                ScoreRow(
                    strategy=strategy,
                    model=model,
                    answer_by=answer_by,
                    seed=seed,
                    example_id=example.id,
                    group=example.cluster,
                    slices=example.slices,
                    metric=metric.name,
                    metric_version=metric.version,
                    value=scored.value,
                    statistics=scored.statistics,
                )
            )
    return rows


def primary_value(
    examples: Sequence[Example], outputs: Sequence[Output], metric: Metric, contract: AnswerContract
) -> float:
    """A system's figure on these examples.

    Raises:
        DataError: ids do not match one to one, or the metric applies to none of the examples.
    """
    import numpy as np

    statistics = [
        metric.score(example, output, contract).statistics
        for example, output in paired(examples, outputs)
        if metric.applies(example, output, contract)
    ]
    if not statistics:
        raise DataError(f"metric '{metric.name}' applies to none of the {len(examples)} examples; are they labelled?")
    sums = np.array([math.fsum(column) for column in zip(*statistics, strict=True)])
    return float(metric.aggregate(sums))


def paired(examples: Sequence[Example], outputs: Sequence[Output]) -> list[tuple[Example, Output]]:
    """Each example with its output, in the order of the examples.

    Raises:
        DataError: an id is missing, unknown or repeated on either side.
    """
    by_id = {output.example_id: output for output in outputs}
    ids = {example.id for example in examples}
    if len(by_id) == len(outputs) and len(ids) == len(examples) and ids == by_id.keys():
        return [(example, by_id[example.id]) for example in examples]
    facts = [f"{len(examples)} examples, {len(outputs)} outputs"]
    if missing := sorted(ids - by_id.keys()):
        facts.append(f"without an output: {_some(missing)}")
    if unknown := sorted(by_id.keys() - ids):
        facts.append(f"outputs of no example: {_some(unknown)}")
    for side, found in (("examples", [item.id for item in examples]), ("outputs", [out.example_id for out in outputs])):
        if twice := _repeated(found):
            facts.append(f"repeated {side}: {_some(twice)}")
    raise DataError(f"every example needs exactly one output: {'; '.join(facts)}")


def write_scores(rows: Iterable[ScoreRow], path: Path) -> None:
    """Writes the table, sorted by strategy, model, seed, metric and example id, whole or not at all.

    The order of the rows given does not matter: the same rows give the same bytes.

    Raises:
        DataError: two rows stand for the same strategy, model, seed, metric and example.
    """
    ordered = sorted(rows, key=_place)
    for before, row in pairwise(ordered):
        if _place(before) == _place(row):
            raise DataError(
                f"two scores of strategy '{row.strategy}', seed {row.seed}, metric '{row.metric}', "
                f"example '{row.example_id}'"
            )
    columns = {item.name: [getattr(row, item.name) for row in ordered] for item in fields(ScoreRow)}
    write_columns(columns, _schema(), path)


def read_scores(path: Path) -> list[ScoreRow]:
    """The rows of a table, in its order.

    Raises:
        DataError: no such file, not parquet, a column is missing or has another type.
    """
    table = read_columns(path, _schema())
    columns = {name: table.column(name).to_pylist() for name in table.column_names if name != "statistics"}
    columns["slices"] = [tuple(slices) for slices in columns["slices"]]
    columns["statistics"] = _statistics_of(table)
    names = list(columns)
    return [ScoreRow(**dict(zip(names, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def arrays(rows: Iterable[ScoreRow], strategy: str, metric: str, seed: int | None = None) -> MetricArrays:
    """The scores of one strategy, metric and seed (None: a strategy without one), in the order of the example ids.

    Raises:
        DataError: there are none, an example stands there twice, or the rows are of several metric versions.
    """
    import numpy as np

    rows = list(rows)
    chosen = [row for row in rows if (row.strategy, row.metric, row.seed) == (strategy, metric, seed)]
    chosen.sort(key=lambda row: row.example_id)
    if not chosen:
        raise _no_such_rows(rows, strategy, metric, seed)
    where = f"strategy '{strategy}', metric '{metric}', seed {seed}"
    if twice := _repeated([row.example_id for row in chosen]):
        raise DataError(f"{where}: examples stand there more than once: {_some(twice)}")
    if len({(row.metric_version, len(row.statistics)) for row in chosen}) > 1:
        raise DataError(f"{where}: the rows are of several versions of the metric, or of several label sets")
    return MetricArrays(
        example_ids=tuple(row.example_id for row in chosen),
        values=np.array([row.value for row in chosen], dtype=np.float64),
        statistics=np.array([row.statistics for row in chosen], dtype=np.float64),
        groups=tuple(row.group for row in chosen),
    )


def _no_such_rows(rows: Sequence[ScoreRow], strategy: str, metric: str, seed: int | None) -> DataError:
    strategies = sorted({row.strategy for row in rows})
    if strategy not in strategies:
        listed = ", ".join(strategies) or "none"
        return DataError(f"no scores of strategy '{strategy}'{nearest(strategy, strategies)}; there are: {listed}")
    of_strategy = [row for row in rows if row.strategy == strategy]
    metrics = sorted({row.metric for row in of_strategy})
    if metric not in metrics:
        return DataError(
            f"strategy '{strategy}' has no scores of metric '{metric}'{nearest(metric, metrics)}; "
            f"there are: {', '.join(metrics)}"
        )
    seeds = sorted({str(row.seed) for row in of_strategy if row.metric == metric})
    return DataError(f"strategy '{strategy}', metric '{metric}' has no seed {seed}; there are: {', '.join(seeds)}")


def _place(row: ScoreRow) -> tuple[str, str, str, int, int, str, str]:
    seed = (0, 0) if row.seed is None else (1, row.seed)
    return (row.strategy, row.model, row.answer_by, *seed, row.metric, row.example_id)


def _schema() -> pa.Schema:
    import pyarrow as pa

    types = {
        "seed": pa.int64(),
        "slices": pa.list_(pa.field("element", pa.string(), nullable=False)),
        "value": pa.float64(),
        "statistics": pa.list_(pa.field("element", pa.float64(), nullable=False)),
    }
    return pa.schema(
        [
            pa.field(item.name, types.get(item.name, pa.string()), nullable=item.name == "seed")
            for item in fields(ScoreRow)
        ]
    )


def _statistics_of(table: pa.Table) -> list[tuple[float, ...]]:
    """Statistics of each row. Equal ones share a tuple: a macro F1 of 77 labels has 231 cells in each of its rows."""
    column = table.column("statistics").combine_chunks()
    if table.num_rows == 0:
        return []
    offsets, flat = column.offsets.to_numpy(), column.values.to_numpy()
    shared: dict[bytes, tuple[float, ...]] = {}
    found = []
    for start, end in pairwise(offsets):
        cells = flat[start:end]
        key = cells.tobytes()
        if key not in shared:
            shared[key] = tuple(cells.tolist())
        found.append(shared[key])
    return found


def _repeated(ids: Sequence[str]) -> list[str]:
    return sorted(item for item, count in Counter(ids).items() if count > 1)


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return ", ".join(f"'{item}'" for item in ids[:3]) + more
