"""docs/data.md names every key of a task, of a row and of a task in a recipe, and what it shows can be read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from toolkit.tasks.rows import ExampleRow
from toolkit.tasks.schema import Columns, Data, InlineTask, Make, TaskFile

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)


def test_the_task_the_rows_and_the_recipes_can_be_read() -> None:
    folder, inline, hub = map(yaml, blocks("yaml"))
    assert TaskFile.model_validate(folder).abstention
    assert InlineTask.model_validate(inline["task"]).columns.group == "article"
    Data.model_validate(hub["data"])
    (rows,) = blocks("json")
    assert [len(ExampleRow.model_validate(json.loads(line)).targets) for line in rows.splitlines()] == [2, 0]


@pytest.mark.parametrize("schema", [TaskFile, ExampleRow], ids=lambda schema: schema.__name__)
def test_the_tables_hold_every_key(schema: Any) -> None:
    rows = "\n".join(re.findall(r"^\| (`.*)$", PAGE, re.MULTILINE))
    assert set(schema.model_fields) <= set(re.findall(r"`(\w+)`", rows))


@pytest.mark.parametrize("schema", [InlineTask, Columns, Make, Data], ids=lambda schema: schema.__name__)
def test_every_key_of_a_task_in_a_recipe_is_named(schema: Any) -> None:
    shown = "\n".join([*blocks("yaml"), *re.findall(r"`[^`\n]+`", PAGE)])
    unnamed = {name for name in schema.model_fields if not re.search(rf"\b{name}\b", shown)}
    assert unnamed <= {"config"}  # of a hub dataset with several
