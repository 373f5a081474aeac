"""LocalModel: prompts in, answers and scores out, whatever the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from toolkit.errors import ModelError
from toolkit.inference import LocalModel, Sampling
from toolkit.inference.decoding import plain_greedy
from toolkit.inference.local import SHORTEST_PREFIX_TOKENS
from toolkit.inference.scoring import plain_scores
from toolkit.models.weights import tensors_digest
from toolkit.rendering import Draft, Prompt, Renderer, Template
from toolkit.tasks.task import Task

SAMPLING = Sampling(6)


@pytest.fixture
def prompts(choice_task: Task, template: Template, renderer: Renderer) -> list[Prompt]:
    return [renderer.prompt(Draft(example, template, choice_task.contract)) for example in choice_task.test]


@pytest.fixture
def choices(choice_task: Task, renderer: Renderer, prompts: list[Prompt]) -> list[list[tuple[int, ...]]]:
    return [renderer.continuations(list(choice_task.contract.labels))] * len(prompts)


def test_prompts_of_a_task_share_a_prefix_long_enough_to_be_prefilled(
    tiny_model: LocalModel, prompts: list[Prompt]
) -> None:
    tiny_model.generate(prompts, SAMPLING)
    assert tiny_model._prefix is not None
    assert len(tiny_model._prefix.token_ids) >= SHORTEST_PREFIX_TOKENS


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("batch_tokens", [1, 300, 4096])
def test_answers_and_scores_are_those_of_the_reference(
    make_module: Callable[..., Any],
    renderer: Renderer,
    prompts: list[Prompt],
    choices: list[list[tuple[int, ...]]],
    family: str,
    batch_tokens: int,
) -> None:
    module = make_module(family)
    model = LocalModel(module, renderer, family, "digest", 512, batch_tokens)
    rows = [prompt.token_ids for prompt in prompts]
    with torch.inference_mode():
        wanted = plain_greedy(module, rows, renderer.stop_ids, 6)
        scores = plain_scores(module, rows, [tuple(row) for row in choices])
    said = model.generate(prompts, SAMPLING)
    assert [one.token_ids for one in said] == [tuple(row.token_ids) for row in wanted]
    assert [one.termination for one in said] == [row.termination for row in wanted]
    assert [one.text for one in said] == [renderer.text(row.token_ids) for row in wanted]
    for found, right in zip(model.score(prompts, choices), scores, strict=True):
        assert found == pytest.approx(right, abs=1e-4)


def test_an_unknown_family_never_meets_the_fast_road(
    make_module: Callable[..., Any],
    renderer: Renderer,
    prompts: list[Prompt],
    choices: list[list[tuple[int, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = LocalModel(make_module("gpt_neox"), renderer, "neox", "digest", 512)
    assert not model.fast
    monkeypatch.setattr("toolkit.inference.decoding.greedy", None)
    monkeypatch.setattr("toolkit.inference.scoring.tree_scores", None)
    assert len(model.generate(prompts, SAMPLING)) == len(model.score(prompts, choices)) == len(prompts)


def test_repeating_a_call_gives_identical_results(
    tiny_model: LocalModel, prompts: list[Prompt], choices: list[list[tuple[int, ...]]]
) -> None:
    first = tiny_model.generate(prompts, SAMPLING), tiny_model.score(prompts, choices)
    tiny_model.generate(prompts[:2], SAMPLING)
    assert (tiny_model.generate(prompts, SAMPLING), tiny_model.score(prompts, choices)) == first


def test_one_prompt_alone_answers_as_in_company(
    tiny_model: LocalModel, prompts: list[Prompt], choices: list[list[tuple[int, ...]]]
) -> None:
    together, scores = tiny_model.generate(prompts, SAMPLING), tiny_model.score(prompts, choices)
    for number, prompt in enumerate(prompts):
        (alone,) = tiny_model.generate([prompt], SAMPLING)
        assert alone.token_ids == together[number].token_ids
        assert tiny_model.score([prompt], [choices[number]])[0] == pytest.approx(scores[number], abs=1e-4)


def test_a_row_that_is_the_shared_prefix_itself(tiny_model: LocalModel, prompts: list[Prompt]) -> None:
    long = prompts[0]
    assert long.token_ids is not None
    short = replace(long, token_ids=long.token_ids[:-3])
    same = [short, long, short]
    alone = [tiny_model.generate([prompt], SAMPLING)[0].token_ids for prompt in same]
    assert [one.token_ids for one in tiny_model.generate(same, SAMPLING)] == alone


def test_a_prefix_of_other_prompts_is_not_used(
    tiny_model: LocalModel, prompts: list[Prompt], renderer: Renderer
) -> None:
    tiny_model.generate(prompts, SAMPLING)
    other = [replace(prompt, token_ids=(*range(40, 60), *(prompt.token_ids or ())[30:])) for prompt in prompts]
    fresh = LocalModel(tiny_model.module, renderer, "fresh", "digest", 512)
    assert tiny_model.generate(other, SAMPLING) == fresh.generate(other, SAMPLING)
    assert fresh._prefix is not None
    assert fresh._prefix.token_ids[:20] == tuple(range(40, 60))


def test_answering_leaves_weights_mode_and_generator_alone(
    tiny_model: LocalModel, prompts: list[Prompt], choices: list[list[tuple[int, ...]]]
) -> None:
    before, state = tensors_digest(tiny_model.module), torch.get_rng_state()
    tiny_model.generate(prompts, SAMPLING)
    tiny_model.score(prompts, choices)
    assert tensors_digest(tiny_model.module) == before
    assert not tiny_model.module.training
    assert torch.equal(torch.get_rng_state(), state)


def test_prompts_without_token_ids_are_refused(tiny_model: LocalModel) -> None:
    with pytest.raises(ModelError, match="token ids"):
        tiny_model.generate([Prompt((), None, {}, "")], SAMPLING)


def test_no_prompts_give_no_answers(tiny_model: LocalModel) -> None:
    assert tiny_model.generate([], SAMPLING) == tiny_model.score([], []) == []
