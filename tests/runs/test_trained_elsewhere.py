"""An adapter that was trained elsewhere: a candidate like any other, and what is unknown of it is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import RecipeError
from toolkit.models import load_pretrained
from toolkit.report.read import read_run
from toolkit.runs.reopen import reopen
from toolkit.runs.run import RunResult

Start = Callable[..., RunResult]
MINE = {"zero_shot": [], "mine": [{"adapter": {"path": "./mine"}}]}


@pytest.fixture
def mine(world: Any, save_adapter: Callable[..., Path], tmp_path: Path) -> Path:
    """Beside the recipe that `start` writes."""
    return save_adapter(load_pretrained(world.model, "float32", "cpu").module, tmp_path / "mine")


@pytest.fixture
def result(start: Start, mine: Path) -> RunResult:
    return start(MINE, seeds=[0, 1])


def test_it_is_compared_as_a_part_that_owns_its_weights(result: RunResult) -> None:
    facts = result.comparison["strategies"]["mine"]
    assert (facts["label"], facts["control"], facts["seeds"]) == ("adapter", False, [None])
    (contrast,) = result.comparison["contrasts"]  # without any `varies`
    assert (contrast["a"], contrast["b"], contrast["refused"]) == ("mine", "zero_shot", None)
    manifest = json.loads((result.folder / "manifest.json").read_text())["strategies"]
    assert manifest["mine"]["factors"] == manifest["zero_shot"]["factors"]
    assert facts["merge"]["examples"] == 8  # unseeded, and yet there is something to merge


def test_a_smoke_run_merges_for_no_more_examples_than_it_answers(start: Start, mine: Path) -> None:
    assert start(MINE, overrides=["limit=2"]).comparison["strategies"]["mine"]["merge"]["examples"] == 2


def test_the_report_says_what_is_unknown_of_it(result: RunResult) -> None:
    page = " ".join((result.folder / "report.md").read_text().split())
    assert (
        "mine was trained elsewhere: what it learnt from is unknown here, so whether it saw the test rows is unknown"
        in page
    )
    assert "What the training of mine took is unknown" in page
    assert "adapter, trained elsewhere" in page
    assert any("mine was trained elsewhere" in note for note in result.comparison["notes"])
    assert read_run(result.folder).trained_elsewhere == ["mine"]


def test_nothing_is_said_of_it_where_all_was_trained_here(start: Start) -> None:
    folder = start({"zero_shot": [], "few_shot": [{"prompt": {"shots": 1}}]}).folder
    assert "elsewhere" not in (folder / "report.md").read_text()


def test_no_file_but_the_recipe_names_its_place(start: Start, mine: Path) -> None:
    folder = start({"zero_shot": [], "mine": [{"adapter": {"path": str(mine)}}]}).folder
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert [path.name for path in files if str(mine).encode() in path.read_bytes()] == ["recipe.yaml"]


def test_a_finished_run_answers_when_the_adapter_is_gone(result: RunResult, mine: Path, start: Start) -> None:
    shutil.rmtree(mine)
    finished = reopen(result.folder)
    assert len(finished.predict("mine", [finished.text_input("what colour is lamp number 1")])) == 1
    (shown,) = [one for one in finished.show("lamp-4") if one.strategy == "mine"]
    assert shown.trained is None  # what it learnt is not known, so nothing is made up
    with pytest.raises(RecipeError, match=r"recipe.yaml:\d+: strategies.mine: adapter: path: there is no folder"):
        start(MINE, seeds=[0, 1])


def test_another_adapter_at_the_same_place_is_measured_anew(
    start: Start, result: RunResult, mine: Path, save_adapter: Callable[..., Path], world: Any
) -> None:
    before = (result.folder / "outputs" / "mine" / "seed-none.jsonl").read_bytes()
    assert start(MINE, seeds=[0, 1]).folder == result.folder
    assert (result.folder / "outputs" / "mine" / "seed-none.jsonl").read_bytes() == before
    shutil.rmtree(mine)
    save_adapter(load_pretrained(world.model, "float32", "cpu").module, mine, r=2)
    assert result.comparison["test_scorings"] == 1
    assert start(MINE, seeds=[0, 1]).comparison["test_scorings"] == 2
    assert (result.folder / "outputs" / "mine" / "seed-none.jsonl").read_bytes() != before


def test_one_that_does_not_fit_is_refused_before_anything_is_computed(
    start: Start, mine: Path, save_adapter: Callable[..., Path], make_module: Callable[..., Any], asked: list[Any]
) -> None:
    shutil.rmtree(mine)
    save_adapter(make_module("qwen3"), mine)
    with pytest.raises(RecipeError, match=r"strategies.mine: adapter: path: './mine' does not fit the model 'tiny-mod"):
        start(MINE)
    assert asked == []


def test_two_parts_with_weights_are_refused_before_anything_is_computed(
    start: Start, mine: Path, asked: list[Any], all_strategies: Any
) -> None:
    with pytest.raises(RecipeError, match=r"strategies\.mine: adapter and tune both bring weights"):
        start({"zero_shot": [], "mine": [*MINE["mine"], *all_strategies["lora"]]})
    assert asked == []


def test_a_template_of_a_strategys_own_lies_beside_the_recipe_too(start: Start, tmp_path: Path) -> None:
    text = 'name: brief\nsystem: "BRIEFLY. {{ instruction }}"\npassages: ""\nuser: "{{ inputs.question }}"\n'
    (tmp_path / "brief.yaml").write_text(text)
    result = start({"zero_shot": [], "brief": [{"prompt": {"shots": 0, "template": "brief.yaml"}}]})
    assert "BRIEFLY" in reopen(result.folder).show("lamp-4")[1].sent
