from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.errors import RecipeError
from toolkit.recipe import ContrastSpec, StrategyOverrides, load_recipe
from toolkit.recipe.schema import Decoding, Likelihood, StrategyDecoding
from toolkit.tasks.schema import InlineTask

Write = Callable[[str], Path]

QUICKSTART = """
# recipes/quickstart.yaml
task: handbook                       # datasets/handbook
model: smollm2-135m-instruct-q4      # configs/models/; one name, one weights digest
embedder: all-minilm-l6-v2
template: answer                     # configs/prompts/; shared by all strategies
decoding: {max_new_tokens: 24}       # greedy
seeds: [0]
strategies:
  zero_shot: []
  few_shot:  [prompt: {shots: 4}]
  rag:       [retrieve: {top_k: 3}]
  lora:      [tune: {rank: 16}]
baseline: zero_shot                  # contrasts: each strategy against it
timing: {examples: 8}
"""


def test_the_quickstart_recipe_loads(write: Write) -> None:
    recipe = load_recipe(write(QUICKSTART))
    assert (recipe.name, recipe.task, recipe.model) == ("mine", "handbook", "smollm2-135m-instruct-q4")
    assert [(each.name, each.label()) for each in recipe.strategies] == [
        ("zero_shot", "no adaptation"),
        ("few_shot", "prompt"),
        ("rag", "retrieve"),
        ("lora", "tune"),
    ]
    assert recipe.strategy("lora").seeded
    assert (recipe.decoding.max_new_tokens, recipe.seeds, recipe.timing_examples) == (24, (0,), 8)
    assert recipe.contrasts == tuple(ContrastSpec(name, "zero_shot") for name in ("few_shot", "rag", "lora"))


def test_defaults_are_filled_in(write: Write) -> None:
    recipe = load_recipe(write("task: t\nmodel: m\nstrategies: {only: [retrieve]}\n"))
    assert (recipe.template, recipe.dtype, recipe.device, recipe.over_length) == ("answer", "auto", "auto", "stop")
    assert (recipe.decoding.max_new_tokens, recipe.timing_examples) == (32, 32)
    assert (recipe.chunk_examples, recipe.batch_tokens, recipe.seeds, recipe.alpha) == (32, 2048, (0,), 0.05)
    assert recipe.description == ""
    nothing = (recipe.embedder, recipe.answer_by, recipe.margin, recipe.limit, recipe.unequal_trials, recipe.baseline)
    assert nothing == (None,) * 6
    assert (recipe.metrics, recipe.contrasts, recipe.models) == ((), (), {})
    assert recipe.overrides == {"only": StrategyOverrides()}
    assert recipe.strategies[0].adapters[0].settings.model_dump() == {"top_k": 3, "size_tokens": 160}


def test_order_of_parts_is_kept_and_settings_may_be_left_out(write: Write) -> None:
    recipe = load_recipe(
        write(
            """
            task: t
            model: m
            strategies:
              base: []
              raft: [retrieve: , tune]
              other: [tune: {}, retrieve]
            """
        )
    )
    assert [each.label() for each in recipe.strategies] == ["no adaptation", "retrieve + tune", "tune + retrieve"]


def test_a_strategy_may_set_model_template_answer_by_and_decoding(write: Write) -> None:
    recipe = load_recipe(
        write(
            """
            task: t
            model: m
            models: {large: big-model}
            strategies:
              base: []
              big: [model: large, retrieve, template: own, answer_by: generation, decoding: {max_new_tokens: 5}]
            """
        )
    )
    assert recipe.overrides["big"] == StrategyOverrides(
        "large", "own", "generation", StrategyDecoding(max_new_tokens=5)
    )
    assert recipe.overrides["base"] == StrategyOverrides()
    assert recipe.strategy("big").label() == "retrieve"
    assert recipe.models == {"large": "big-model"}


def test_a_strategy_decodes_as_the_recipe_but_for_what_it_sets(write: Write) -> None:
    recipe = load_recipe(
        write(
            """
            task: t
            model: m
            decoding: {max_new_tokens: 9, temperature: 1, top_p: 0.9, samples: 3, stop: ["\\n", END]}
            likelihood: {normalise: bytes, correct: unconditional}
            strategies:
              base: []
              cold: [decoding: {temperature: 0, stop: []}]
            """
        )
    )
    assert recipe.decoding_of("base") == Decoding(
        max_new_tokens=9, temperature=1.0, top_p=0.9, samples=3, stop=("\n", "END")
    )
    assert recipe.decoding_of("cold") == Decoding(max_new_tokens=9, temperature=0.0, top_p=1.0, samples=1, stop=())
    assert recipe.likelihood == Likelihood(normalise="bytes", correct="unconditional")
    assert load_recipe(write(recipe.text)).digest == recipe.digest


def test_numbers_are_those_of_yaml_1_2(write: Write) -> None:
    text = "task: t\nmodel: yes\nstrategies: {s: [tune: {learning_rate: 2e-5, modules: [no, q]}]}\n"
    recipe = load_recipe(write(text))
    settings = recipe.strategies[0].adapters[0].settings.model_dump()
    assert settings["learning_rate"] == 2e-5
    assert settings["modules"] == ("no", "q")
    assert recipe.model == "yes"


def test_a_task_may_be_written_into_the_recipe(write: Write) -> None:
    text = """
        task:
          name: own
          kind: choice
          labels: [up, down]
          data: {files: rows.csv}
          columns: {inputs: {question: q}, target: a}
          keep: {language: en}
          make: {train: 8, validation: 4, test: 4}
        model: m
        strategies: {s: []}
        """
    recipe = load_recipe(write(text))
    assert isinstance(recipe.task, InlineTask)
    assert recipe.task.labels.names == ("up", "down")
    assert load_recipe(write(recipe.text)).task == recipe.task


def test_the_text_is_whole_and_loads_to_the_same_recipe(write: Write, tmp_path: Path) -> None:
    text = QUICKSTART + "contrasts: [{a: rag, b: lora, margin: 0.02}]\nmodels: {large: big}\n"
    recipe = load_recipe(write(text), ["strategies.lora.tune.learning_rate=2e-5", "strategies.big=[model: large]"])
    for line in ("name: mine", "over_length: stop", "  - retrieve: {top_k: 3, size_tokens: 160}"):
        assert line in recipe.text.split("\n")
    copy = tmp_path / "recipe.yaml"
    copy.write_text(recipe.text, encoding="utf-8")
    again = load_recipe(copy)
    assert (again.digest, again.text, again.contrasts) == (recipe.digest, recipe.text, recipe.contrasts)
    assert again.overrides == recipe.overrides


@pytest.mark.parametrize(
    "tricky",
    ["? unclear", "?", "a\x85b", "no", "1e3", "a: b", "a #b", "- x", "\n", " a", "a\r\nb", "\u2028", "@a", "|", "---"],
)
def test_tricky_texts_come_back_from_the_text(write: Write, tricky: str) -> None:
    recipe = load_recipe(write(QUICKSTART.replace("max_new_tokens: 24", f"stop: [{json.dumps(tricky)}]")))
    again = load_recipe(write(recipe.text))
    assert (again.digest, again.decoding) == (recipe.digest, recipe.decoding)


def test_the_digest_does_not_see_order_comments_defaults_or_names(write: Write) -> None:
    one = load_recipe(write("task: t\nmodel: m\nstrategies: {s: [retrieve: {top_k: 3}], b: []}\n"))
    other = load_recipe(
        write(
            """
            # the same
            strategies:
              b: []
              s:
              - retrieve: {size_tokens: 160, top_k: 3}
            description: in other words
            name: other
            seeds: [0]
            model: m   # of the catalogue
            task: t
            """
        )
    )
    assert one.digest == other.digest
    assert len(one.digest) == 64


@pytest.mark.parametrize(
    "override",
    ["model=n", "strategies.s.retrieve.top_k=4", "seeds=[1]", "decoding.max_new_tokens=31", "strategies.b=[retrieve]"],
)
def test_the_digest_sees_what_decides_results(write: Write, override: str) -> None:
    path = write("task: t\nmodel: m\nbaseline: b\nstrategies: {s: [retrieve, tune], b: []}\n")
    assert load_recipe(path).digest != load_recipe(path, [override]).digest


def test_the_order_of_parts_changes_the_digest(write: Write) -> None:
    digests = {
        load_recipe(write(f"task: t\nmodel: m\nstrategies: {{s: [{parts}]}}\n")).digest
        for parts in ("retrieve, tune", "tune, retrieve")
    }
    assert len(digests) == 2


def test_a_recipe_tells_where_a_key_was_written(write: Write) -> None:
    recipe = load_recipe(write(QUICKSTART), ["limit=8"])
    assert recipe.where("strategies", "rag", 0, "retrieve", "top_k") == "mine.yaml:11: strategies.rag.0.retrieve.top_k"
    assert recipe.where("strategies", "rag", 0, "retrieve", "size_tokens").startswith("mine.yaml:11: ")
    assert recipe.where("limit") == "override 'limit=8': limit"


def test_a_file_name_that_cannot_name_a_folder_is_made_to(tmp_path: Path) -> None:
    path = tmp_path / "my first recipe.yaml"
    path.write_text("task: t\nmodel: m\nstrategies: {s: []}\n")
    assert load_recipe(path).name == "my-first-recipe"


def test_a_recipe_that_is_not_there_is_told() -> None:
    with pytest.raises(RecipeError, match="'no-such-recipe' was not found"):
        load_recipe("no-such-recipe")


def test_a_name_without_its_ending_is_found(write: Write) -> None:
    write("task: t\nmodel: m\nstrategies: {s: []}\n")
    assert load_recipe("mine").path.name == "mine.yaml"
