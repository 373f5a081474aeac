"""Sampling: each answer's own draws, nucleus, several samples of one prefill, texts that end an answer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from toolkit.errors import ModelError
from toolkit.inference import LocalModel, Sampling
from toolkit.inference.keys_values import Slots
from toolkit.inference.local import KEPT_PASSES, SMALLEST_PASS
from toolkit.inference.packed import Packed
from toolkit.inference.sampling import Picker, Row
from toolkit.rendering import Draft, Prompt, Renderer, Template
from toolkit.tasks.task import Task

WARM = Sampling(8, temperature=1.0, top_p=0.9, samples=3, seed=5)


@pytest.fixture
def prompts(choice_task: Task, template: Template, renderer: Renderer) -> list[Prompt]:
    return [renderer.prompt(Draft(example, template, choice_task.contract)) for example in choice_task.test]


def letters(ids: Sequence[int]) -> str:
    return "".join(chr(97 + token) for token in ids)


def drawn(logits: Sequence[float], sampling: Sampling, count: int = 4000) -> Counter[int]:
    rows = [Row(random.Random(number)) for number in range(count)]
    Picker(sampling, frozenset(), letters).pick(torch.tensor([logits] * count), rows)
    return Counter(row.token_ids[0] for row in rows)


def test_tokens_are_drawn_by_their_probability() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    found = drawn(logits, Sampling(temperature=1.0))
    for token, share in enumerate([0.5, 0.3, 0.15, 0.05]):
        assert found[token] / 4000 == pytest.approx(share, abs=0.03)


def test_temperature_sharpens_and_flattens() -> None:
    logits = torch.tensor([0.6, 0.4]).log().tolist()
    sharp, flat = 0.6**2 / (0.6**2 + 0.4**2), 0.6**0.5 / (0.6**0.5 + 0.4**0.5)
    assert drawn(logits, Sampling(temperature=0.5))[0] / 4000 == pytest.approx(sharp, abs=0.03)
    assert drawn(logits, Sampling(temperature=2.0))[0] / 4000 == pytest.approx(flat, abs=0.03)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log().tolist()
    assert set(drawn(logits, Sampling(temperature=1.0, top_p=0.7))) == {1, 3}
    assert set(drawn(logits, Sampling(temperature=1.0, top_p=0.49))) == {1}
    assert drawn(logits, Sampling(temperature=1.0, top_p=0.7))[1] / 4000 == pytest.approx(0.5 / 0.8, abs=0.03)


def test_a_nucleus_wider_than_what_is_looked_at_first_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([0.28, 0.26, 0.24, 0.22]).log().tolist()
    wanted = drawn(logits, Sampling(temperature=1.0, top_p=0.75))
    monkeypatch.setattr("toolkit.inference.sampling.NUCLEUS_TOKENS", 2)
    assert drawn(logits, Sampling(temperature=1.0, top_p=0.75)) == wanted
    assert set(wanted) == {0, 1, 2}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"samples": 0}, "samples"),
        ({"stop": ("\n", "")}, "stop text"),
    ],
)
def test_sampling_that_cannot_be_done_is_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        Sampling(**settings)


@pytest.mark.parametrize("longer", [False, True], ids=["of one length", "a long one beside short ones"])
def test_samples_beyond_the_memory_for_keys_are_drawn_in_turns(
    tiny_model: LocalModel, renderer: Renderer, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, longer: bool
) -> None:
    many = Sampling(4, temperature=1.0, samples=9)
    prompts = [replace(prompts[0], token_ids=(prompts[0].token_ids or ())[-8:]), prompts[1]] if longer else prompts
    together = tiny_model.generate(prompts[:2], many)
    small = LocalModel(tiny_model.module, renderer, "small", "digest", 512, batch_tokens=SMALLEST_PASS)
    made: list[int] = []
    real = Slots.__init__
    monkeypatch.setattr(
        Slots, "__init__", lambda self, rows, size, layers: made.append(rows * size) or real(self, rows, size, layers)
    )
    apart = small.generate(prompts[:2], many)
    assert [one.token_ids for one in apart] == [one.token_ids for one in together]
    assert [[more.token_ids for more in one.alternatives] for one in apart] == [
        [more.token_ids for more in one.alternatives] for one in together
    ]
    assert max(made) <= KEPT_PASSES * SMALLEST_PASS < 9 * len(prompts[1].token_ids or ())


def test_confidence_is_by_the_model_and_not_by_the_temperature() -> None:
    row = Row()
    Picker(Sampling(temperature=0.01), frozenset(), letters).pick(torch.tensor([[0.6, 0.4]]).log(), [row])
    assert row.confidence == pytest.approx(0.6)


def test_a_text_that_ends_an_answer_adds_no_token_to_its_confidence() -> None:
    row, picker = Row(), Picker(Sampling(stop=("b",)), frozenset({2}), letters)
    for chances in ([0.5, 0.4, 0.1], [0.1, 0.5, 0.4]):
        picker.pick(torch.tensor([chances]).log(), [row])
    assert (row.done, row.token_ids) == (True, [0, 1])
    assert row.confidence == pytest.approx(0.5)
    row = Row()
    for chances in ([0.5, 0.4, 0.1], [0.1, 0.4, 0.5]):
        picker.pick(torch.tensor([chances]).log(), [row])
    assert (row.done, row.token_ids) == (True, [0])
    assert row.confidence == pytest.approx(0.5)


def test_a_draw_depends_on_seed_prompt_and_number_only(tiny_model: LocalModel, prompts: list[Prompt]) -> None:
    together = tiny_model.generate(prompts, WARM)
    alone = [tiny_model.generate([prompt], WARM)[0] for prompt in reversed(prompts)][::-1]
    assert [(one.token_ids, [more.token_ids for more in one.alternatives]) for one in together] == [
        (one.token_ids, [more.token_ids for more in one.alternatives]) for one in alone
    ]
    said = {ids for one in together for ids in (one.token_ids, *(more.token_ids for more in one.alternatives))}
    assert len(said) > len(prompts)
    other = tiny_model.generate(prompts, Sampling(8, temperature=1.0, top_p=0.9, samples=3, seed=6))
    assert [one.token_ids for one in other] != [one.token_ids for one in together]


def test_more_samples_begin_with_the_same_ones(tiny_model: LocalModel, prompts: list[Prompt]) -> None:
    few = tiny_model.generate(prompts[:2], Sampling(6, temperature=1.0, samples=2))
    many = tiny_model.generate(prompts[:2], Sampling(6, temperature=1.0, samples=5))
    for one, more in zip(few, many, strict=True):
        assert len(one.alternatives) == 1
        assert len(more.alternatives) == 4
        assert (more.token_ids, more.alternatives[0].token_ids) == (one.token_ids, one.alternatives[0].token_ids)


def test_samples_of_one_prompt_share_its_prefill(
    tiny_model: LocalModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiny_model.path.startswith("packed")
    passes: list[int] = []
    real = Packed.forward
    monkeypatch.setattr(Packed, "forward", lambda self, ids, *rest: passes.append(len(ids)) or real(self, ids, *rest))
    tiny_model.generate(prompts[:1], Sampling(2, temperature=1.0, samples=7))
    assert passes[0] == len(prompts[0].token_ids or ())
    assert max(passes[1:]) <= 7


def test_both_paths_draw_alike(make_module: Callable[..., Any], renderer: Renderer, prompts: list[Prompt]) -> None:
    packed = LocalModel(make_module("llama"), renderer, "packed", "digest", 512)
    plain = LocalModel(make_module("llama"), renderer, "plain", "digest", 512)
    plain.__dict__["why_plain"] = "as this test wants it"
    for one, other in zip(packed.generate(prompts, WARM), plain.generate(prompts, WARM), strict=True):
        assert one.token_ids == other.token_ids
        assert [more.token_ids for more in one.alternatives] == [more.token_ids for more in other.alternatives]


def test_greedy_decoding_has_one_sample(tiny_model: LocalModel, prompts: list[Prompt]) -> None:
    greedy = tiny_model.generate(prompts, Sampling(5))
    assert tiny_model.generate(prompts, Sampling(5, samples=4, seed=9)) == greedy
    assert all(not one.alternatives for one in greedy)


def test_an_answer_ends_before_the_first_stop_text(tiny_model: LocalModel, prompts: list[Prompt]) -> None:
    whole = tiny_model.generate(prompts, Sampling(12))
    texts = [tiny_model.renderer.decode(one.token_ids) for one in whole]
    place = next(number for number, text in enumerate(texts) if len(text) > 6)
    stop = texts[place][4:6]
    (cut,) = tiny_model.generate([prompts[place]], Sampling(12, stop=("never said", stop)))
    assert cut.termination == "stop"
    assert cut.text == texts[place][: texts[place].index(stop)].strip()
    assert cut.token_ids == whole[place].token_ids[: len(cut.token_ids)]
    assert len(cut.token_ids) < len(whole[place].token_ids)


def test_a_stop_text_across_tokens_is_found() -> None:
    row = Row()
    picker = Picker(Sampling(10, stop=("bc",)), frozenset(), letters)
    for token in (0, 1, 2, 3):
        if not row.done:
            picker.pick(torch.nn.functional.one_hot(torch.tensor([token]), 5).float(), [row])
    assert letters(row.token_ids) == "abc"
    assert row.termination == "stop"


def test_an_answer_that_reaches_the_cap_with_its_stop_text_has_stopped() -> None:
    row = Row()
    Picker(Sampling(1, stop=("a",)), frozenset(), letters).pick(torch.tensor([[9.0, 0.0]]), [row])
    assert (row.done, row.termination) == (True, "stop")


def test_the_spelling_of_a_control_token_stops_too(
    tiny_model: LocalModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in no decoded text, so only its id shows it."""
    (first,) = tiny_model.generate(prompts[:1], Sampling(8))
    place = max(first.token_ids.index(token) for token in first.token_ids)
    token = first.token_ids[place]
    assert place > 0
    tokenizer = tiny_model.renderer.tokenizer
    spelling = tokenizer.convert_ids_to_tokens(token)
    monkeypatch.setattr(type(tokenizer), "all_special_tokens", property(lambda _: [spelling]))
    (cut,) = tiny_model.generate(prompts[:1], Sampling(8, stop=(spelling,)))
    assert (cut.termination, cut.token_ids[:place]) == ("stop", first.token_ids[:place])
    assert len(cut.token_ids) <= place + 1
