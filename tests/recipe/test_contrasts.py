from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from toolkit.recipe import ContrastSpec, load_recipe

Write = Callable[[str], Path]
START = "task: t\nmodel: m\n"


def test_each_candidate_stands_against_the_baseline_and_declared_contrasts_follow(write: Write) -> None:
    text = """
        task: t
        model: m
        strategies: {rag: [retrieve], base: [], lora: [tune], both: [retrieve, tune]}
        contrasts: [{a: both, b: rag}, {a: both, b: lora}]
        """
    recipe = load_recipe(write(text))
    assert recipe.baseline == "base"
    assert [(each.a, each.b) for each in recipe.contrasts] == [
        ("rag", "base"),
        ("lora", "base"),
        ("both", "base"),
        ("both", "rag"),
        ("both", "lora"),
    ]


def test_a_declared_contrast_takes_the_place_of_the_default_one_whichever_way_round(write: Write) -> None:
    text = """
        task: t
        model: m
        models: {large: big}
        strategies: {base: [], big: [model: large], rag: [retrieve]}
        contrasts: [{a: big, b: base, varies: [model]}, {a: base, b: rag}]
        """
    assert load_recipe(write(text)).contrasts == (
        ContrastSpec("big", "base", ("model",)),
        ContrastSpec("base", "rag"),
    )


def test_controls_are_contrasted_only_where_declared(write: Write) -> None:
    text = START + "strategies: {base: [], rag: [retrieve], top: [oracle]}\n"
    assert load_recipe(write(text)).contrasts == (ContrastSpec("rag", "base"),)
    declared = load_recipe(write(text + "contrasts: [{a: top, b: rag}]\n"))
    assert declared.contrasts == (ContrastSpec("rag", "base"), ContrastSpec("top", "rag"))


def test_a_contrast_s_margin_goes_before_the_recipe_s(write: Write) -> None:
    text = START + (
        "margin: 0.05\nstrategies: {base: [], rag: [retrieve], lora: [tune]}\n"
        "contrasts: [{a: rag, b: lora, margin: 0.01}, {a: lora, b: base}]\n"
    )
    assert [each.margin for each in load_recipe(write(text)).contrasts] == [0.05, 0.01, 0.05]


def test_another_metric_is_another_question_with_a_margin_of_its_own(write: Write) -> None:
    text = START + (
        "margin: 0.05\nstrategies: {base: [], rag: [retrieve]}\n"
        "contrasts: [{a: rag, b: base, metric: f1}, {a: rag, b: base, metric: recall, margin: 0.1}]\n"
    )
    assert load_recipe(write(text)).contrasts == (
        ContrastSpec("rag", "base", (), 0.05),
        ContrastSpec("rag", "base", (), None, "f1"),
        ContrastSpec("rag", "base", (), 0.1, "recall"),
    )


def test_a_named_baseline_goes_before_the_empty_list(write: Write) -> None:
    recipe = load_recipe(write(START + "strategies: {base: [], rag: [retrieve]}\nbaseline: rag\n"))
    assert recipe.contrasts == (ContrastSpec("base", "rag"),)


def test_declared_contrasts_need_no_baseline(write: Write) -> None:
    recipe = load_recipe(write(START + "strategies: {rag: [retrieve], lora: [tune]}\ncontrasts: [{a: rag, b: lora}]\n"))
    assert (recipe.baseline, recipe.contrasts) == (None, (ContrastSpec("rag", "lora"),))
