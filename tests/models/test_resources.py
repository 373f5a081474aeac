from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from toolkit import resources
from toolkit.errors import DataError, ModelError, RecipeError


@pytest.fixture
def shipped_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder whose shipped files lie where a checkout has them, and an empty working directory."""
    for folder in ("package", "recipes", "configs/prompts", "datasets/handbook", "elsewhere"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    (tmp_path / "root/recipes/quickstart.yaml").write_text("a: 1\n")
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "root" / "package")
    monkeypatch.chdir(tmp_path / "root" / "elsewhere")
    return tmp_path / "root"


def test_a_path_comes_before_beside_and_beside_before_shipped(shipped_tree: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text("")
    assert resources.find("quickstart", "recipes", recipe) == shipped_tree / "recipes/quickstart.yaml"
    (recipe.parent / "quickstart.yml").write_text("")
    assert resources.find("quickstart", "recipes", recipe) == recipe.parent / "quickstart.yml"
    (shipped_tree / "elsewhere/quickstart.yaml").write_text("")
    assert resources.find("quickstart.yaml", "recipes", recipe) == shipped_tree / "elsewhere/quickstart.yaml"
    assert resources.find(str(recipe), "recipes") == recipe


def test_a_folder_is_found_only_where_folders_are_allowed(shipped_tree: Path) -> None:
    assert resources.find("handbook", "datasets", None, ("",)) == shipped_tree / "datasets/handbook"
    (shipped_tree / "recipes/quick").mkdir()
    with pytest.raises(RecipeError):
        resources.find("quick", "recipes")


def test_an_installed_wheel_is_looked_into_first(shipped_tree: Path) -> None:
    (shipped_tree / "package/shipped/recipes").mkdir(parents=True)
    assert resources.shipped("recipes") == shipped_tree / "package/shipped/recipes"
    with pytest.raises(RecipeError, match="incomplete"):
        resources.shipped("datasets")


def test_errors_are_of_the_kind_and_name_the_nearest(shipped_tree: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'quickstart'"):
        resources.find("quickstrat", "recipes")
    with pytest.raises(DataError, match="did you mean 'handbook'"):
        resources.find("handbok", "datasets", None, ("",))
    (shipped_tree / "configs/models").mkdir()
    with pytest.raises(ModelError, match="shipped in configs/models: nothing"):
        resources.find("x", "configs/models")
    with pytest.raises(RecipeError, match="did you mean 'recipes'"):
        resources.shipped("recipe")


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "here"))
    assert resources.cache_folder() == tmp_path / "here"
    monkeypatch.delenv("TOOLKIT_CACHE")
    assert resources.cache_folder().name == "adaptation-toolkit"


def test_importing_models_stays_light() -> None:
    code = (
        "import sys, toolkit.models; print([m for m in ('torch','transformers','pydantic','gguf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"


def test_a_folder_that_only_has_the_name_does_not_hide_what_is_shipped(tmp_path, monkeypatch):
    (tmp_path / "tickets").mkdir()
    monkeypatch.chdir(tmp_path)
    assert (
        resources.find("tickets", "datasets", suffixes=("",), holds="task.yaml")
        == resources.shipped("datasets") / "tickets"
    )
    (tmp_path / "mine").mkdir()
    assert resources.find("mine", "datasets", suffixes=("",), holds="task.yaml") == tmp_path / "mine"
