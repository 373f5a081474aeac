"""What must not matter does not: order, company, batches, repetition, other strategies, the global generator."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toolkit.inference import LocalModel
from toolkit.models.weights import tensors_digest
from toolkit.rendering import Renderer
from toolkit.strategies.adapter import Adapter
from toolkit.strategies.controls import OracleAdapter
from toolkit.strategies.prompt import PromptAdapter
from toolkit.strategies.retrieve import RetrieveAdapter
from toolkit.strategies.system import System
from toolkit.strategies.tune import TuneAdapter
from toolkit.tasks.output import Output
from toolkit.tasks.task import Task

SMALL = {"size_tokens": 16, "overlap_tokens": 0}
TUNE = TuneAdapter.model_validate({"rank": 2, "max_steps": 3, "learning_rate": 0.02, "checkpoint_every": 0})
STACKS: dict[str, tuple[Adapter, ...]] = {
    "zero shot": (),
    "few shot": (PromptAdapter(shots=2),),
    "rag": (RetrieveAdapter(top_k=2, **SMALL),),
    "few shot rag": (PromptAdapter(shots=1), RetrieveAdapter(top_k=2, **SMALL)),
    "lora": (TUNE,),
    "lora on rag": (RetrieveAdapter(top_k=2, **SMALL), TUNE),
    "lora then rag": (TUNE, RetrieveAdapter(top_k=2, **SMALL)),
    "oracle": (OracleAdapter(top_k=2, **SMALL),),
}


def essence(outputs: list[Output]) -> list[tuple[Any, ...]]:
    """Everything discrete of the outputs; confidences differ in the last bits between batches."""
    return [
        (item.example_id, item.status, item.text, item.token_ids, item.termination, item.retrieved, item.prompt_digest)
        for item in outputs
    ]


def model_of(module: Any, renderer: Renderer, batch_tokens: int = 4096) -> LocalModel:
    return LocalModel(module, renderer, "tiny", "tiny-digest", 512, batch_tokens)


@pytest.mark.parametrize("name", STACKS)
def test_order_company_and_batches_change_no_answer(
    text_task: Task, make_module: Callable[..., Any], renderer: Renderer, make_bench: Any, fit_on: Any, name: str
) -> None:
    examples = (*text_task.test, *text_task.validation)
    systems = [
        fit_on(
            make_bench(text_task, model_of(make_module("llama"), renderer, tokens)), *STACKS[name], folder=str(tokens)
        ).system
        for tokens in (1, 4096)
    ]
    wanted = essence(systems[1].answer(examples))
    assert essence(systems[0].answer(examples)) == wanted
    assert essence(systems[1].answer(examples[::-1])) == wanted[::-1]
    assert essence([output for example in examples for output in systems[1].answer([example])]) == wanted


def test_likelihoods_are_the_same_in_any_order_and_batch(
    choice_task: Task, make_module: Callable[..., Any], renderer: Renderer, make_bench: Any, fit_on: Any
) -> None:
    def scores(tokens: int, examples: Any) -> list[tuple[float, ...]]:
        bench = make_bench(choice_task, model_of(make_module("llama"), renderer, tokens))
        outputs = fit_on(bench, PromptAdapter(shots=2), folder=str(tokens)).system.answer(examples)
        return [output.choice_scores or () for output in outputs]

    wanted = scores(4096, choice_task.test)
    for found in (
        scores(1, choice_task.test),
        scores(600, choice_task.test),
        scores(4096, choice_task.test[::-1])[::-1],
    ):
        for row, other in zip(found, wanted, strict=True):
            assert row == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("name", ["lora", "lora on rag", "lora then rag"])
def test_a_tuned_strategy_leaves_the_base_as_it_was(
    text_task: Task, make_module: Callable[..., Any], renderer: Renderer, make_bench: Any, fit_on: Any, name: str
) -> None:
    module = make_module("llama", fresh=True)
    model = model_of(module, renderer)
    bench = make_bench(text_task, model)
    before = tensors_digest(module), [type(part) for part in module.modules()], module.training
    plain = fit_on(bench, folder="plain").system
    answers = plain.answer(text_task.test)
    system = fit_on(bench, *STACKS[name]).system
    tuned = system.answer(text_task.test)
    assert (tensors_digest(module), [type(part) for part in module.modules()], module.training) == before
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert plain.answer(text_task.test) == answers
    assert [output.confidence for output in tuned] != [output.confidence for output in answers]


def test_the_order_of_the_stack_makes_another_strategy(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    bench = make_bench(text_task, tiny_model)
    on_rag, then_rag = (fit_on(bench, *STACKS[name], folder=name).system for name in ("lora on rag", "lora then rag"))
    assert on_rag.key != then_rag.key
    assert on_rag.parts[1].weights.digest != then_rag.parts[0].weights.digest
    one, other = on_rag.answer(text_task.test), then_rag.answer(text_task.test)
    assert [item.prompt_digest for item in one] == [item.prompt_digest for item in other]


def test_merged_weights_answer_like_the_view(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    bench = make_bench(text_task, tiny_model)
    fitted = fit_on(bench, TUNE).system
    merged = System(fitted.strategy, fitted.parts, tiny_model, bench.conditions, merged=True)
    assert merged.model.digest != fitted.model.digest
    assert essence(merged.answer(text_task.test)) == essence(fitted.answer(text_task.test))


@pytest.mark.parametrize("name", STACKS)
def test_the_global_generators_are_neither_read_nor_moved(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, name: str, tmp_path: Path
) -> None:
    from toolkit.store import Store

    answers = []
    for turn in (0, 1):
        random.seed(turn)
        np.random.seed(turn)
        torch.manual_seed(turn)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        bench = make_bench(text_task, tiny_model, store=Store(tmp_path / f"store{turn}"))
        answers.append(fit_on(bench, *STACKS[name], folder=f"{turn}").system.answer(text_task.test))
        assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert answers[0] == answers[1]
