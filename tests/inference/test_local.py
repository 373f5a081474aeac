"""LocalModel: prompts in, answers and scores out, whatever the batch."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.errors import ModelError
from toolkit.inference import LocalModel, Sampling
from toolkit.inference.batches import PREFIX_STEP
from toolkit.inference.local import SMALLEST_PASS
from toolkit.inference.model import Weights
from toolkit.inference.packed import Packed
from toolkit.inference.plain import Plain
from toolkit.inference.sampling import Picker, Row
from toolkit.models import adapter_digest
from toolkit.models.weights import tensors_digest
from toolkit.rendering import Draft, Prompt, Renderer, Template
from toolkit.tasks.example import Example
from toolkit.tasks.task import Task
from toolkit.tuning import TuneSettings, save_adapter
from toolkit.tuning.adapter import new_adapter

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
    assert len(tiny_model._prefix) >= PREFIX_STEP
    assert len(tiny_model._prefix) % PREFIX_STEP == 0


@pytest.mark.parametrize("way", ["generate", "score"])
def test_demonstrations_that_chunks_share_are_prefilled_once(
    tiny_model: LocalModel,
    choice_task: Task,
    template: Template,
    renderer: Renderer,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    prefilled: list[int] = []
    real = Packed.prefill
    monkeypatch.setattr(Packed, "prefill", lambda self, ids: prefilled.append(len(ids)) or real(self, ids))

    def chunk(examples: Sequence[Example], shown: Sequence[Example]) -> None:
        drafts = [Draft(one, template, choice_task.contract).with_demonstrations(list(shown)) for one in examples]
        prompts = [renderer.prompt(draft) for draft in drafts]
        if way == "generate":
            tiny_model.generate(prompts, SAMPLING)
        else:
            tiny_model.score(prompts, [renderer.continuations(list(choice_task.contract.labels))] * len(prompts))

    train, test = choice_task.train, choice_task.test
    for examples in (test[:2], test[2:], test):
        chunk(examples, train[:2])
    assert len(prefilled) == 1
    for examples in (test[:2], test[2:]):
        chunk(examples, train[2:4])
    assert len(prefilled) == 2
    chunk(test[:2], train[:2])
    assert len(prefilled) == 3, "only the last prefix is kept"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox"])
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
        wanted = [Row() for _ in rows]
        Plain(module).answers(rows, wanted, Picker(SAMPLING, renderer.stop_ids, renderer.decode))
        scores = Plain(module).scores(rows, [tuple(row) for row in choices])
    said = model.generate(prompts, SAMPLING)
    assert [one.token_ids for one in said] == [tuple(row.token_ids) for row in wanted]
    assert [one.termination for one in said] == [row.termination for row in wanted]
    assert [one.text for one in said] == [renderer.text(row.token_ids) for row in wanted]
    for found, right in zip(model.score(prompts, choices), scores, strict=True):
        assert found == pytest.approx(right, abs=1e-4)


def test_an_unknown_family_never_meets_the_packed_path(
    make_module: Callable[..., Any],
    renderer: Renderer,
    prompts: list[Prompt],
    choices: list[list[tuple[int, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = LocalModel(make_module("gpt_neox"), renderer, "neox", "digest", 512)
    assert model.path.startswith("plain: the family 'gpt_neox'")
    monkeypatch.setattr("toolkit.inference.decoding.decode", None)
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
    assert fresh._prefix.token_ids[:16] == tuple(range(40, 56))


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


def test_identical_requests_are_computed_once(
    tiny_model: LocalModel,
    prompts: list[Prompt],
    choices: list[list[tuple[int, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, scores = tiny_model.generate(prompts[:2], SAMPLING), tiny_model.score(prompts[:2], choices[:2])
    packed: list[int] = []
    real = Packed.forward
    monkeypatch.setattr(Packed, "forward", lambda self, ids, *rest: packed.append(len(ids)) or real(self, ids, *rest))
    tiny_model.generate(prompts[:2], SAMPLING)
    tiny_model.score(prompts[:2], choices[:2])
    once = list(packed)
    packed.clear()
    assert tiny_model.generate([*prompts[:2], *prompts[:2]], SAMPLING) == [*said, *said]
    assert tiny_model.score([*prompts[:2]] * 3, [*choices[:2]] * 3) == scores * 3
    assert packed == once


def test_memory_does_not_grow_with_the_prompt(make_module: Callable[..., Any], renderer: Renderer) -> None:
    """No pass is longer than asked for, however long the prompt."""
    module = make_module("llama", max_position_embeddings=4096)
    sizes: list[int] = []
    real = Packed.forward
    long = [Prompt((), tuple(4 + place % 250 for place in range(size)), {}, str(size)) for size in (3000, 2900)]
    model = LocalModel(module, renderer, "long", "digest", 4096, batch_tokens=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Packed, "forward", lambda self, ids, *rest: sizes.append(len(ids)) or real(self, ids, *rest))
        said = model.generate(long, Sampling(3))
    assert max(sizes) <= 256 + len(long)
    assert said == LocalModel(module, renderer, "long", "digest", 4096, batch_tokens=8192).generate(long, Sampling(3))


def test_a_gpu_out_of_memory_halves_the_pass_and_the_work_is_done_again(
    tiny_model: LocalModel,
    prompts: list[Prompt],
    choices: list[list[tuple[int, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, scores = tiny_model.generate(prompts, SAMPLING), tiny_model.score(prompts, choices)
    real, tried = Packed.forward, []

    def full(self: Packed, ids: Any, *rest: Any) -> Any:
        tried.append(self.pass_tokens)
        if self.pass_tokens > 1024:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, ids, *rest)

    monkeypatch.setattr(Packed, "forward", full)
    assert tiny_model.generate(prompts, SAMPLING) == said
    assert tried[:2] == [2048, 1024]
    for found, right in zip(tiny_model.score(prompts, choices), scores, strict=True):
        assert found == pytest.approx(right, abs=1e-4)
    tried.clear()
    tiny_model.generate(prompts, SAMPLING)
    assert tried[0] == 2048, "a chunk must not depend on what the chunk before it ran out of"
    monkeypatch.setattr(Packed, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA")))
    with pytest.raises(torch.OutOfMemoryError):
        tiny_model.generate(prompts, SAMPLING)
    assert tiny_model._packed.pass_tokens >= SMALLEST_PASS


def test_the_base_keeps_its_own_attention(tiny_model: LocalModel, prompts: list[Prompt]) -> None:
    before = tiny_model.module.config._attn_implementation
    tiny_model.generate(prompts, SAMPLING)
    assert tiny_model.module.config._attn_implementation == before == "sdpa"


def test_a_continuation_without_tokens_is_refused(tiny_model: LocalModel, prompts: list[Prompt]) -> None:
    with pytest.raises(ModelError, match="without tokens"):
        tiny_model.score(prompts[:1], [[(5,), ()]])


def test_no_log_likelihood_is_above_zero_in_bf16(
    make_module: Callable[..., Any], renderer: Renderer, prompts: list[Prompt]
) -> None:
    """The normaliser is made of rounded logits, a token's own is exact: together they must not exceed certainty."""
    module = make_module("llama", fresh=True)
    module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight * 6, requires_grad=False)
    model = LocalModel(module.bfloat16(), renderer, "sharp", "digest", 512)
    said = model.generate(prompts, Sampling(1))
    likely = [[one.token_ids[:1] or tuple(renderer.stop)] for one in said]
    scores = [row[0] for row in model.score(prompts, likely)]
    assert max(scores) > -0.5, "nothing is near certain: the test tests nothing"
    assert max(scores) <= 1e-6


def test_nothing_to_choose_from_has_no_scores(tiny_model: LocalModel, prompts: list[Prompt]) -> None:
    assert tiny_model.score(prompts[:1], [[]]) == [()]


def test_a_view_lays_out_no_weight_that_the_base_has(
    make_module: Callable[..., Any], renderer: Renderer, prompts: list[Prompt], tmp_path: Path
) -> None:
    module = make_module("llama")
    save_adapter(new_adapter(module, TuneSettings(rank=2), seed=0), tmp_path)
    model = LocalModel(module, renderer, "llama", "digest", 512)
    view = model.adapted(Weights(tmp_path, "adapter"))
    view.score(prompts[:1], [[(5,)]])
    assert bool(model._layouts._found) == model._packed.laid_out
    assert view._layouts._found == {}


def test_a_view_that_is_held_is_not_made_again(
    make_module: Callable[..., Any], renderer: Renderer, prompts: list[Prompt], tmp_path: Path
) -> None:
    module = make_module("llama")
    model = LocalModel(module, renderer, "llama", "digest", 512)
    weights = []
    for seed in (0, 1):
        save_adapter(new_adapter(module, TuneSettings(rank=2), seed=seed), tmp_path / str(seed))
        weights.append(Weights(tmp_path / str(seed), adapter_digest(tmp_path / str(seed))))
    first, other, merged = model.adapted(weights[0]), model.adapted(weights[1]), model.adapted(weights[0], merged=True)
    assert model.adapted(weights[0]) is first
    assert len({id(first), id(other), id(merged)}) == 3
    held = weakref.ref(first)
    del first
    gc.collect()
    assert held() is None
