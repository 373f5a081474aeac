"""docs/training.md names every setting with its default."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toolkit.recipe import load_recipe
from toolkit.rendering import Renderer
from toolkit.strategies.adapter import Adapter
from toolkit.strategies.tune import TuneAdapter
from toolkit.tasks.load import load_task
from toolkit.tuning import SequenceFile

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_every_setting_stands_there_with_its_default_and_why() -> None:
    said: dict[str, str] = {}
    for names, defaults, why in re.findall(r"^\| (`.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE):
        assert why.strip()
        fields = re.findall(r"`(\w+)`", names)
        values = [value.strip(" `") for value in defaults.split(",")]
        said |= dict(zip(fields, values * len(fields) if len(values) == 1 else values, strict=False))
    assert set(said) == set(TuneAdapter.model_fields)
    for name, field in TuneAdapter.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "none" if default in (None, {}) else f"{default:g}" if isinstance(default, float) else str(default)
        assert said[name] == shown, name


def test_the_recipe_that_learns_the_corpus_can_be_loaded(tmp_path: Path) -> None:
    (block,) = (found for found in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "learn: corpus" in found)
    path = tmp_path / "read.yaml"
    path.write_text(block, encoding="utf-8")
    recipe = load_recipe(path)
    task = load_task(recipe.task, recipe.path).without_test()
    settings: dict[str, list[Adapter]] = {
        strategy.name: [adapter.settings for adapter in strategy.adapters] for strategy in recipe.strategies
    }
    read = TuneAdapter(learn="corpus", epochs=5)
    assert settings["read"] == settings["read_rag"][:1] == [read]
    assert read.check(task) == []
    assert {(contrast.a, contrast.b) for contrast in recipe.contrasts} >= {("rag", "read"), ("read_rag", "rag")}


def test_the_training_from_a_file_runs(
    make_module: Callable[..., Any], renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = (found for found in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "write_sequences" in found)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text("A text.\n" * 9, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(
        block,
        {"renderer": renderer, "model": SimpleNamespace(module=make_module("llama")), "folder": tmp_path / "texts"},
    )
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert len(SequenceFile("corpus.sequences", verify=True)) == 1
