"""Faults planted in training sequences stop the training before its first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import DataError, FairnessError
from toolkit.rendering import Renderer, TrainingSequence
from toolkit.strategies.tune import TuneAdapter
from toolkit.tasks.task import Task
from toolkit.tuning import TuneSettings, train
from toolkit.tuning.checks import check_items

STOP, BOS = (9,), 1
SMALL = TuneSettings(rank=2, max_steps=1)


def sequence(text: str) -> TrainingSequence:
    """`1 5 [7 9]`: token ids, the supervised ones between brackets."""
    ids, supervised, inside = [], [], False
    for word in text.replace("[", "[ ").replace("]", " ]").split():
        if word in "[]":
            inside = word == "["
        else:
            ids.append(int(word))
            supervised.append(inside)
    return TrainingSequence(tuple(ids), tuple(supervised))


SOUND = sequence("1 5 [7 9]")


@pytest.fixture
def refusal(llama: Any, tmp_path: Path) -> Callable[..., list[str]]:
    """The problems with which a training of a sound sequence and faulty ones is refused, before any step."""

    def refused(*texts: str, stop: Sequence[int] = STOP, bos: int | None = BOS) -> list[str]:
        steps: list[int] = []
        with pytest.raises(DataError, match="cannot be trained on") as caught:
            train(
                llama(),
                [SOUND, *map(sequence, texts)],
                SMALL,
                tmp_path,
                on_step=lambda report: steps.append(report.step),
                stop=stop,
                bos=bos,
            )
        assert steps == []
        assert list(tmp_path.iterdir()) == []
        lines = str(caught.value).split("\n")
        return [line.removeprefix("  - ") for line in lines[1:]] or [lines[0].split(": ", 1)[1]]

    return refused


def test_sound_sequences_pass(llama: Any) -> None:
    check_items(llama(), [SOUND, sequence("1 5 [7 9] 5 [9]"), sequence(f"1 {'5 ' * 60} 5 [7 9]")], STOP, BOS)


def test_a_mask_of_another_length_and_a_missing_name_are_refused(llama: Any) -> None:
    long, short = (replace(SOUND, supervised=marks) for marks in ((False,) * 4 + (True,) * 2, (True,)))
    with pytest.raises(DataError) as caught:
        check_items(llama(), [SOUND, long, short])
    assert "sequence 1: 4 tokens with 6 marks" in str(caught.value)
    assert "sequence 2: 4 tokens with 1 marks" in str(caught.value)
    with pytest.raises(DataError, match="2 sequences with 1 names"):
        check_items(llama(), [SOUND, SOUND], names=["one"])


@pytest.mark.parametrize(("text", "said"), [("1 5 7 9", 4), ("[1] 5", 2), ("", 0)])
def test_a_row_without_supervision_is_refused(refusal: Callable[..., list[str]], text: str, said: int) -> None:
    """A supervised first token does not count: nothing stands before it to predict it from."""
    (problem,) = refusal(text, stop=())
    assert problem == (
        f"sequence 1: none of its {said} tokens is supervised, so nothing would be learnt; "
        "mark an answer or leave it out"
    )


def test_an_over_long_row_is_refused(refusal: Callable[..., list[str]]) -> None:
    (problem,) = refusal(f"1 {'5 ' * 62} [9]", f"1 {'5 ' * 63} [9]")
    assert problem == "sequence 2: 65 tokens, but the model's context is 64; shorten it"


@pytest.mark.parametrize("foreign", [64, -1])
def test_a_token_id_of_another_tokeniser_is_refused(refusal: Callable[..., list[str]], foreign: int) -> None:
    (problem,) = refusal(f"1 {foreign} [7 9]")
    assert problem == (
        f"sequence 1: token id {foreign} is none of the model's 64; render with the model's own tokeniser"
    )


@pytest.mark.parametrize(
    ("text", "end"),
    [("1 5 [7]", 2), ("1 5 [7] 9", 2), ("1 5 [7] 9 5 [7 9]", 2), ("1 5 [7 9] 5 [8 7]", 6), ("1 5 [9 7]", 3)],
)
def test_an_answer_whose_stop_token_is_not_supervised_is_refused(
    refusal: Callable[..., list[str]], text: str, end: int
) -> None:
    (problem,) = refusal(text)
    assert problem == (
        f"sequence 1: the supervised tokens that end at position {end} do not end with the stop token 9, so the model "
        "would not learn to stop; add it, supervised"
    )


def test_a_stop_of_several_tokens_is_supervised_whole(refusal: Callable[..., list[str]]) -> None:
    problems = refusal("1 5 [7 8 9]", "1 5 7 8 [9]", stop=(8, 9))
    assert [problem.split(":")[0] for problem in problems] == ["sequence 0", "sequence 2"]


def test_two_bos_are_refused(refusal: Callable[..., list[str]]) -> None:
    (problem,) = refusal("1 1 5 [7 9]", "1 5 1 [1 9]")
    assert problem == (
        "sequence 1: it starts with two BOS tokens (id 1); let the chat template or the tokeniser write one"
    )


def test_stop_and_bos_are_not_checked_where_they_are_not_known(llama: Any, tmp_path: Path) -> None:
    assert train(llama(), [sequence("1 1 5 [7]")], SMALL, tmp_path).steps == 1


def test_all_faults_are_told_at_once_and_a_frequent_one_hides_no_other(refusal: Callable[..., list[str]]) -> None:
    problems = refusal(*["1 5 7 9"] * 7, "1 1 5 [64]")
    assert [problem.split(":")[0] for problem in problems] == [
        *(f"sequence {index}" for index in range(1, 6)), "and 2 more", *["sequence 8"] * 3
    ]  # fmt: skip
    assert problems[5] == "and 2 more: nothing supervised"


def _cut(found: TrainingSequence) -> TrainingSequence:
    """The stop token is there and not learnt."""
    return TrainingSequence(found.token_ids, (*found.supervised[:-1], False))


def _opened_twice(found: TrainingSequence) -> TrainingSequence:
    return TrainingSequence((found.token_ids[0], *found.token_ids), (False, *found.supervised))


def _another_prompt(found: TrainingSequence) -> TrainingSequence:
    """White space at the prompt's end went into the answer, as re-rendering a whole conversation would do."""
    start = found.supervised.index(True)
    return TrainingSequence(
        (*found.token_ids[: start - 1], *found.token_ids[start:]),
        (*found.supervised[: start - 1], *found.supervised[start:]),
    )


def _learns_its_prompt(found: TrainingSequence) -> TrainingSequence:
    return TrainingSequence(found.token_ids, (True,) * len(found.supervised))


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (_cut, DataError, r"do not end with the stop token 2"),
        (_another_prompt, FairnessError, r"example 'card-1': its training ids do not start with its prompt's \d+"),
        (_opened_twice, FairnessError, r"example 'card-1': its training ids do not start with its prompt's \d+"),
        (_learns_its_prompt, FairnessError, r"example 'card-1': \d+ tokens of its prompt are supervised"),
    ],
)
def test_a_renderer_that_trains_on_something_else_than_it_asks_stops_the_fit(
    choice_task: Task,
    tiny_model: Any,
    make_bench: Any,
    fit_on: Any,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[TrainingSequence], TrainingSequence],
    kind: type[Exception],
    said: str,
) -> None:
    sound = Renderer.training_sequence
    target = next(example for example in choice_task.train if example.id == "card-1")

    def faulty(self: Renderer, draft: Any, answer: str) -> TrainingSequence:
        found = sound(self, draft, answer)
        return fault(found) if draft.example.id == target.id else found

    monkeypatch.setattr(Renderer, "training_sequence", faulty)
    monkeypatch.setattr("toolkit.tuning.training._train", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(kind, match=said):
        fit_on(make_bench(choice_task, tiny_model), TuneAdapter(rank=2, max_steps=1))


def test_a_chat_template_that_opens_twice_stops_the_fit(
    choice_task: Task,
    make_tokenizer: Callable[..., Any],
    make_module: Callable[..., Any],
    make_bench: Any,
    fit_on: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from toolkit.inference import LocalModel

    twice = "{{ bos_token + bos_token }}{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    model = LocalModel(make_module("llama"), Renderer(make_tokenizer(twice, adds_bos=True)), "tiny", "tiny-digest", 512)
    monkeypatch.setattr("toolkit.tuning.training._train", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(DataError, match=r"it starts with two BOS tokens \(id 3\)"):
        fit_on(make_bench(choice_task, model), TuneAdapter(rank=2, max_steps=1))
