"""A task written into a recipe: rows of files or of a hub dataset, cut into splits."""

from __future__ import annotations

from pathlib import Path

from toolkit.errors import DataError
from toolkit.tasks.assemble import SPLITS, Loaded, assemble
from toolkit.tasks.columns import keep_rows, missing_columns, task_row, unknown_values
from toolkit.tasks.making import make_splits
from toolkit.tasks.problems import refuse
from toolkit.tasks.rows import Located, parse_row
from toolkit.tasks.schema import Data, InlineTask, SourceKey
from toolkit.tasks.tables import Row, read_table
from toolkit.tasks.task import Split


def load_inline(task: InlineTask, beside: Path | None = None) -> Loaded:
    """The task, and the place of every example.

    Args:
        beside: the recipe or its folder, where relative paths start; None starts at the working directory.

    Raises:
        DataError: anything is missing or wrong; all problems at once, with file and line.
    """
    heading = f"task '{task.name}'"
    base = _folder(beside)
    problems: list[str] = []
    tables = _tables(task.data, base, problems)
    corpus = _corpus(task.corpus, base, problems)
    kept = _kept(task, tables, problems)
    located = {source: _located(task, rows, source, problems) for source, rows in kept.items()}
    if problems and task.make is not None:
        refuse(problems, heading)  # rows that could not be read would be missing where counts are taken
    return assemble(task, _splits(task, located, heading), corpus, problems, heading, place=heading)


def _folder(beside: Path | None) -> Path:
    if beside is None:
        return Path.cwd()
    return beside.absolute() if beside.is_dir() else beside.absolute().parent


def _tables(data: Data, base: Path, problems: list[str]) -> dict[SourceKey, list[Row]]:
    if data.files is None:
        from toolkit.tasks.hub import read_hub

        return read_hub(data)
    return {source: read_table(base / Path(name).expanduser(), problems) for source, name in data.files.items()}


def _kept(task: InlineTask, tables: dict[SourceKey, list[Row]], problems: list[str]) -> dict[SourceKey, list[Row]]:
    """Rows after `keep`; none of a table that lacks a column."""
    kept: dict[SourceKey, list[Row]] = {}
    lacking = [problem for rows in tables.values() for problem in missing_columns(rows, task.columns, task.keep)]
    if lacking:
        problems += lacking
        return {source: [] for source in tables}
    problems += unknown_values([row for rows in tables.values() for row in rows], task.keep)
    for source, rows in tables.items():
        kept[source] = keep_rows(rows, task.keep)
        if rows and not kept[source]:
            problems.append(f"{source}: `keep` leaves none of {len(rows)} rows")
    return kept


def _located(task: InlineTask, rows: list[Row], source: SourceKey, problems: list[str]) -> list[Located]:
    prefix = "row" if source == "all" else source
    parsed = [parse_row(task_row(row, task.columns, task.kind, prefix, problems), problems) for row in rows]
    return [item for item in parsed if item is not None]


def _splits(task: InlineTask, located: dict[SourceKey, list[Located]], heading: str) -> dict[Split, list[Located]]:
    if task.make is not None:
        return make_splits(located, task.make, task.split_by, heading)
    missing = [split for split in SPLITS if split not in located]
    if missing:
        raise DataError(
            f"{heading}: there is no data for {' and '.join(missing)}; "
            f"name it in `data.files`, or take it out of train: `make: {{{missing[0]}: 100}}`"
        )
    return {split: located[split] for split in SPLITS}


def _corpus(name: str | None, base: Path, problems: list[str]) -> Path | None:
    if name is None:
        return None
    path = base / Path(name).expanduser()
    if not path.is_dir() and not (path.is_file() and path.suffix == ".jsonl"):
        problems.append(f"corpus: '{path}' is neither a folder nor a .jsonl file")
    return path
