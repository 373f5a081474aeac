"""adapter: weights that were trained elsewhere, found by path and known by content."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import ModelError
from toolkit.inference import LocalModel, ScriptedModel
from toolkit.inference.model import Weights
from toolkit.meter import Meter
from toolkit.models import adapter_digest
from toolkit.models.adapter_files import CONFIG
from toolkit.store import Store, is_sealed
from toolkit.strategies.trained import TrainedAdapter
from toolkit.tasks.task import Task

SaveAdapter = Callable[..., Path]


@pytest.fixture
def mine(save_adapter: SaveAdapter, make_module: Callable[..., Any], tmp_path: Path) -> Path:
    return save_adapter(make_module("llama"), tmp_path / "elsewhere" / "mine")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with nothing in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_path_is_relative_to_the_working_directory_or_the_recipe(
    choice_task: Task, here: Path, mine: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere" / "recipe.yaml").touch()
    adapter = TrainedAdapter(path="./mine")
    assert adapter.check(choice_task) == [f"path: there is no folder './mine'; looked in {here}"]
    beside = adapter.beside(tmp_path / "elsewhere" / "recipe.yaml")
    assert beside.check(choice_task) == []
    assert beside.content() == {"adapter": adapter_digest(mine)}
    (here / "mine").mkdir()  # no adapter: the one beside the recipe is meant
    assert beside.content() == {"adapter": adapter_digest(mine)}
    shutil.copytree(mine, here / "mine", dirs_exist_ok=True)
    assert adapter.check(choice_task) == []


def test_a_folder_that_is_not_there_is_named_with_its_nearest(choice_task: Task, here: Path, mine: Path) -> None:
    (problem,) = TrainedAdapter(path=str(mine.parent / "mime")).check(choice_task)
    assert problem == f"path: there is no folder '{mine.parent / 'mime'}' (did you mean 'mine'?)"


def test_what_is_wrong_with_the_files_is_told_without_a_model(choice_task: Task, mine: Path) -> None:
    (mine / "adapter_model.safetensors").rename(mine / "adapter_model.bin")
    (problem,) = TrainedAdapter(path=str(mine)).check(choice_task)
    assert "its weights are pickled" in problem


def test_a_model_that_it_does_not_fit_is_told_with_what_to_do(
    mine: Path, make_module: Callable[..., Any], tiny_model: LocalModel
) -> None:
    adapter = TrainedAdapter(path=str(mine))
    assert adapter.check_model(tiny_model) == []
    assert adapter.check_model(ScriptedModel(lambda prompt: "")) == []  # stands for a model that is not here
    module = make_module("llama", num_hidden_layers=1)
    other = LocalModel(module, tiny_model.renderer, "other", "digest", 512)
    (problem,) = adapter.check_model(other)
    assert "does not fit the model 'other': 7 of the 14 layers it adapts are not there" in problem
    assert problem.endswith("name the model it was trained on, or train it on this one")


def test_it_answers_like_the_adapter_whatever_the_seed(
    choice_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, mine: Path
) -> None:
    adapter = TrainedAdapter(path=str(mine))
    system = fit_on(make_bench(choice_task, tiny_model), adapter, seed=None).system
    assert not adapter.seeded
    assert system.weights is not None
    view = tiny_model.adapted(Weights(mine, "theirs"))
    prompts = [view.renderer.prompt(draft) for draft in system.drafts(choice_task.test)]
    ids = [view.renderer.continuations(choice_task.contract.labels)] * len(prompts)
    scores = [output.choice_scores for output in system.answer(choice_task.test)]
    assert scores == view.score(prompts, ids)
    assert scores != tiny_model.score(prompts, ids)


def test_a_part_that_others_take_out_of_the_store_is_kept_all_the_same(
    choice_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, mine: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store = Store(tmp_path / "store")
    bench = make_bench(choice_task, tiny_model, store=store)
    monkeypatch.setattr(store, "taking", lambda key, take: None)
    system = fit_on(bench, TrainedAdapter(path=str(mine)), folder="a").system
    assert is_sealed(tmp_path / "a" / "1-trained")
    assert system.answer(choice_task.test)


def test_its_key_is_of_its_content_and_not_of_its_place(
    choice_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, mine: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    bench = make_bench(choice_task, tiny_model, store=store)
    first = fit_on(bench, TrainedAdapter(path=str(mine)), folder="a").system
    moved = Path(shutil.move(mine, tmp_path / "moved"))
    before = store.misses
    assert fit_on(bench, TrainedAdapter(path=str(moved)), folder="b").system.key == first.key
    assert store.misses == before
    about = (tmp_path / "b" / "1-trained" / "part.json").read_text()
    assert "moved" not in about
    assert str(tmp_path) not in about
    settings = json.loads((moved / CONFIG).read_text())
    (moved / CONFIG).write_text(json.dumps({**settings, "lora_alpha": 99}))
    assert fit_on(bench, TrainedAdapter(path=str(moved)), folder="c").system.key != first.key


def test_a_fitted_part_needs_its_source_no_longer(
    choice_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, mine: Path, tmp_path: Path
) -> None:
    adapter = TrainedAdapter(path=str(mine))
    fit_on(make_bench(choice_task, tiny_model), adapter, folder="a")
    shutil.rmtree(mine)
    part = adapter.load(tmp_path / "a" / "1-trained", None)  # type: ignore[arg-type]
    assert part.weights is not None
    assert part.describe().keys() == {"adapter_bytes"}  # what its training took is unknown


def test_a_model_that_is_not_local_is_refused(choice_task: Task, make_bench: Any, fit_on: Any, mine: Path) -> None:
    with pytest.raises(ModelError, match="its weights are not local"):
        fit_on(make_bench(choice_task, ScriptedModel(lambda prompt: "card")), TrainedAdapter(path=str(mine)))


@pytest.mark.parametrize("saved_in", ["chat_template.jinja", "tokenizer_config.json"])
def test_what_may_be_why_it_scores_badly_is_said(
    choice_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, mine: Path, saved_in: str
) -> None:
    said: list[str] = []
    meter = Meter(lambda name, fields: said.append(str(fields["text"])) if name == "notice" else None)
    own = tiny_model.renderer.tokenizer.chat_template
    write_template(mine / saved_in, own)
    fit_on(make_bench(choice_task, tiny_model, meter=meter), TrainedAdapter(path=str(mine)), folder="a")
    assert said == []
    write_template(mine / saved_in, own.replace("user", "human") + "{# another #}")
    settings = json.loads((mine / CONFIG).read_text())
    (mine / CONFIG).write_text(json.dumps({**settings, "base_model_name_or_path": "somebody/tiny", "lora_alpha": 5}))
    fit_on(make_bench(choice_task, tiny_model, meter=meter), TrainedAdapter(path=str(mine)), folder="b")
    assert said[0] == "adapter: trained on 'somebody/tiny', as it says; here it is asked on 'tiny'"
    assert "another chat template than 'tiny'" in said[1]


def write_template(path: Path, template: str) -> None:
    path.write_text(template if path.suffix == ".jinja" else json.dumps({"chat_template": template}), encoding="utf-8")
