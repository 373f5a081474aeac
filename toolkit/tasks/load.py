"""Loading a task: a folder by path or name, or one written into a recipe."""

from __future__ import annotations

import os
from pathlib import Path

from toolkit.errors import DataError
from toolkit.resources import find
from toolkit.tasks.assemble import SPLITS, Loaded, assemble
from toolkit.tasks.problems import escapes, refuse, shown
from toolkit.tasks.rows import Located, parse_row
from toolkit.tasks.schema import InlineTask, TaskFile
from toolkit.tasks.tables import read_table
from toolkit.tasks.task import Split, Task
from toolkit.tasks.yaml_file import YamlFile, read_yaml

HOLDS = "a task is a folder with task.yaml, train.jsonl, validation.jsonl and test.jsonl"


def load_task(name: str | Path | InlineTask, beside: Path | None = None) -> Task:
    """A task.

    Args:
        name: a folder's path, the name of a shipped dataset, or a task written into a recipe.
        beside: the recipe (or its folder) in which it was written; relative paths start there.

    Raises:
        DataError: it is not found, or anything in it is wrong; all problems at once, with file and line.
    """
    return load_task_with_sources(name, beside)[0]


def load_task_with_sources(name: str | Path | InlineTask, beside: Path | None = None) -> Loaded:
    """As `load_task`, with the place of every example: id -> `file:line`."""
    if isinstance(name, InlineTask):
        from toolkit.tasks.inline import load_inline

        return load_inline(name, beside)
    return _load_folder(find(str(name), "datasets", beside, suffixes=("",), holds="task.yaml"))


def _load_folder(folder: Path) -> Loaded:
    if not folder.is_dir():
        raise DataError(f"{shown(folder)} is a file; {HOLDS}")
    heading = f"task {shown(folder)}"
    problems = _links_outside(folder)
    for name in ("task.yaml", *(f"{split}.jsonl" for split in SPLITS)):
        if not (folder / name).is_file():
            problems.append(f"{shown(folder / name)}: the file is missing; {HOLDS}")
    file = folder / "task.yaml"
    read = read_yaml(file, TaskFile, problems) if file.is_file() and not escapes(file, folder) else None
    splits: dict[Split, list[Located]] = {split: _read_split(folder, split, problems) for split in SPLITS}
    if read is None:
        refuse(problems, heading)
        raise DataError(f"{heading}: task.yaml could not be read")
    corpus = _corpus(folder, read, problems)
    return assemble(read.content, splits, corpus, problems, heading, place=read.where("labels"))


def _read_split(folder: Path, split: Split, problems: list[str]) -> list[Located]:
    path = folder / f"{split}.jsonl"
    if not path.is_file() or escapes(path, folder):
        return []
    parsed = [parse_row(row, problems) for row in read_table(path, problems)]
    return [item for item in parsed if item is not None]


def _corpus(folder: Path, read: YamlFile[TaskFile], problems: list[str]) -> Path | None:
    name = read.content.corpus
    path = folder / (name or "corpus")
    if name is None and not path.is_dir():
        return None
    if escapes(path, folder):
        problems.append(f"{read.where('corpus')}: corpus: '{name or path.name}' lies outside the task's folder")
    elif not path.is_dir() and not (path.is_file() and path.suffix == ".jsonl"):
        problems.append(f"{read.where('corpus')}: corpus: '{name}' is neither a folder nor a .jsonl file")
    return path


def _links_outside(folder: Path) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and escapes(path, folder):
                found.append(f"{shown(path)}: links to {os.path.realpath(path)}, outside the task's folder")
    return sorted(found)
