from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.recipe import Recipe, load_recipe

Write = Callable[[str], Path]
Problems = Callable[..., list[str]]
TEXT = """
task: handbook
model: m
models: {large: big}
seeds: [0]
strategies:
  base: []
  rag: [retrieve: {top_k: 3}]
  both: [retrieve, tune: ]
  twice: [retrieve, prompt, retrieve]
contrasts: [{a: rag, b: both}]
"""


def settings(recipe: Recipe, name: str, index: int) -> dict[str, object]:
    return recipe.strategy(name).adapters[index].settings.model_dump()


@pytest.mark.parametrize(
    "path",
    ["strategies.rag.0.retrieve.top_k", "strategies.rag.retrieve.top_k"],
)
def test_a_setting_is_reached_by_index_and_by_name(write: Write, path: str) -> None:
    assert settings(load_recipe(write(TEXT), [f"{path}=5"]), "rag", 0)["top_k"] == 5


@pytest.mark.parametrize("path", ["strategies.both.retrieve", "strategies.both.0.retrieve"])
def test_a_bare_adapter_is_given_settings(write: Write, path: str) -> None:
    recipe = load_recipe(write(TEXT), [f"{path}.top_k=5", "strategies.both.tune.learning_rate=2e-5"])
    assert settings(recipe, "both", 0)["top_k"] == 5
    assert settings(recipe, "both", 1)["learning_rate"] == 2e-5


def test_values_are_read_as_yaml(write: Write) -> None:
    recipe = load_recipe(
        write(TEXT),
        [
            "seeds=[0, 1, 2]",
            "limit=8",
            "description=a = b",
            "models={large: other}",
            "strategies.base=[{tune: {rank: 8}}]",
        ],
    )
    assert (recipe.seeds, recipe.limit, recipe.description) == ((0, 1, 2), 8, "a = b")
    assert recipe.models == {"large": "other"}
    assert settings(recipe, "base", 0)["rank"] == 8


def test_keys_that_the_recipe_lacks_are_made(write: Write) -> None:
    recipe = load_recipe(
        write(TEXT), ["decoding.max_new_tokens=16", "strategies.new=[tune]", "contrasts.0.margin=0.1", "models.tiny=t"]
    )
    assert recipe.decoding.max_new_tokens == 16
    assert recipe.strategies[-1].name == "new"
    assert recipe.contrasts[-1].margin == 0.1
    assert recipe.models == {"large": "big", "tiny": "t"}


def test_a_later_override_wins_and_an_empty_value_is_the_default(write: Write) -> None:
    recipe = load_recipe(write(TEXT), ["limit=8", "template=own", "limit=9", "limit=", "seeds.0=4"])
    assert (recipe.limit, recipe.template, recipe.seeds) == (None, "own", (4,))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("limit", "must be written key=value, for example decoding.max_new_tokens=16"),
        ("strategies..x=1", "must be written key=value, for example decoding.max_new_tokens=16"),
        ("seed=[1]", "seed: unknown key (did you mean 'seeds'?); allowed: name, "),
        (
            "decoding.max_new_token=3",
            "decoding.max_new_token: unknown key (did you mean 'max_new_tokens'?); "
            "allowed: max_new_tokens, temperature, top_p, samples, stop",
        ),
        (
            "strategies.rga.retrieve.top_k=5",
            "strategies.rga: there is no such strategy (did you mean 'rag'?); strategies: base, rag, both, twice",
        ),
        (
            "strategies.rag.retreive.top_k=5",
            "strategies.rag.retreive: the strategy has no such part (did you mean 'retrieve'?); parts: retrieve",
        ),
        ("strategies.base.tune.rank=5", "strategies.base.tune: the strategy has no such part; parts: none"),
        (
            "strategies.twice.retrieve.top_k=5",
            "strategies.twice.retrieve: there are several: write 0 or 2 in front of it",
        ),
        ("strategies.rag.1.retrieve.top_k=5", "strategies.rag.1: there is no such entry; entries: 0 to 0"),
        ("strategies.base.0=tune", "strategies.base.0: there is no such entry; the list is empty"),
        (
            "strategies.rag.retrieve.topk=5",
            "strategies.rag.0.retrieve.topk: unknown key (did you mean 'top_k'?); allowed: top_k, size_tokens",
        ),
        ("strategies.rag.retrieve.top_k=five", "strategies.rag.0.retrieve.top_k: must be a whole number, found 'five'"),
        ("contrasts.a.margin=3", "contrasts.a: this is a list, a number must stand here; entries: 0 to 0"),
        ("task.data=x", "task.data: nothing can stand below 'handbook'"),
        ("seeds=[0, 0]", "seeds: must be distinct, found 0 more than once"),
        ("seeds=[0", "seeds: this is not valid YAML: "),
        ("models={a: x, a: y}", "models.a: this key was given before, in line 1"),
        ("baseline=bas", "baseline: there is no strategy 'bas' (did you mean 'base'?); strategies: base, "),
    ],
)
def test_what_is_wrong_with_an_override_is_told_by_its_own_text(
    problems: Problems, override: str, expected: str
) -> None:
    found = problems(TEXT, override)
    assert len(found) == 1
    assert found[0].startswith(f"override '{override}': {expected}")


def test_a_problem_that_stays_keeps_the_line_of_the_file(problems: Problems) -> None:
    assert problems(TEXT + "limit: 0\n", "strategies.rag.retrieve.top_k=0") == [
        "mine.yaml:11: limit: must be at least 1, found 0",
        "override 'strategies.rag.retrieve.top_k=0': strategies.rag.0.retrieve.top_k: must be at least 1, found 0",
    ]


def test_an_override_mends_a_wrong_line(write: Write) -> None:
    assert load_recipe(write(TEXT + "limit: 0\n"), ["limit=1"]).limit == 1
