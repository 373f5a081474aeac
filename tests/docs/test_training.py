"""docs/training.md names every setting with its default."""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.recipe import load_recipe
from toolkit.strategies.adapter import Adapter
from toolkit.strategies.tune import TuneAdapter
from toolkit.tasks.load import load_task

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
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
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
