"""tune with `learn: chats`: multi-turn conversations of a file are learnt, the assistant's messages alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import DataError
from toolkit.inference import LocalModel
from toolkit.meter import Meter
from toolkit.rendering import Renderer
from toolkit.strategies.tune import TuneAdapter
from toolkit.tasks.task import Task
from toolkit.tuning import SequenceFile

TWO_TURNS = (
    ("user", "How high is the mast"),
    ("assistant", "Nine metres."),
    ("user", "And the lamp on it"),
    ("assistant", "Half a metre more."),
    ("user", "Thanks, that will do"),
)
ONE_TURN = (("system", "Be brief."), ("user", "Where does the rope lie"), ("assistant", "In the store room."))
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}"
)


def write(path: Path, *chats: Any) -> Path:
    rows = [{"messages": [{"role": role, "content": text} for role, text in chat]} for chat in chats]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return write(tmp_path / "chats.jsonl", TWO_TURNS, ONE_TURN)


def chat_tuning(chats: Path, **changes: Any) -> TuneAdapter:
    settings = {"rank": 2, "max_steps": 1, "learn": "chats", "chats": str(chats), **changes}
    return TuneAdapter.model_validate(settings)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, list[Any], dict[str, Any]]]:
    """What each training was given: what held the sequences, the sequences, and the rest by name."""
    from toolkit.tuning import training

    seen: list[tuple[Any, list[Any], dict[str, Any]]] = []
    plain = training.train

    def noted(module: Any, sequences: Any, *rest: Any, **words: Any) -> Any:
        seen.append((sequences, list(sequences), words))
        return plain(module, sequences, *rest, **words)

    monkeypatch.setattr(training, "train", noted)
    return seen


def test_each_answer_is_learnt_with_its_stop_and_nothing_that_others_say(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, given: list[Any], chats: Path, tokenizer: Any
) -> None:
    fitted = fit_on(make_bench(text_task, tiny_model), chat_tuning(chats))
    ((held, sequences, words),) = given
    assert isinstance(held, SequenceFile)
    assert list(words["names"]) == ["chats.jsonl:1", "chats.jsonl:2"]
    assert words["stop"] == tiny_model.renderer.stop
    learnt = [
        tokenizer.decode([token for token, marked in zip(*pair, strict=True) if marked])
        for pair in ((one.token_ids, one.supervised) for one in sequences)
    ]
    assert learnt == ["Nine metres.<|im_end|>Half a metre more.<|im_end|>", "In the store room.<|im_end|>"]
    first = tokenizer.decode(list(sequences[0].token_ids))
    answered = "<|im_start|>user\nAnd the lamp on it<|im_end|>\n<|im_start|>assistant\nHalf a metre more.<|im_end|>"
    assert first.endswith(answered)
    assert "Thanks" not in first  # nothing behind it is learnt
    supervised = sum(sum(one.supervised) for one in sequences)
    assert fitted.facts[0]["training"]["supervised_tokens"] == supervised
    assert not chat_tuning(chats).learns_answers


def test_the_loss_is_the_cross_entropy_of_the_assistants_tokens_alone(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, given: list[Any], chats: Path
) -> None:
    import torch

    fitted = fit_on(make_bench(text_task, tiny_model), chat_tuning(chats))
    losses = []
    for one in given[0][1]:
        ids = torch.tensor([one.token_ids])
        with torch.no_grad():
            logits = tiny_model.module(input_ids=ids).logits[0, :-1].float()
        each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        losses += each[torch.tensor(one.supervised[1:])].tolist()
    assert fitted.facts[0]["training"]["losses"][0] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_a_chat_template_that_rewrites_earlier_turns_is_counted_and_every_answer_learnt(
    text_task: Task,
    make_module: Callable[..., Any],
    make_tokenizer: Callable[..., Any],
    make_bench: Any,
    fit_on: Any,
    given: list[Any],
    chats: Path,
) -> None:
    model = LocalModel(make_module("llama"), Renderer(make_tokenizer(THINKING)), "thinking", "digest", 512)
    notices: list[str] = []
    meter = Meter(lambda name, fields: notices.append(str(fields["text"])) if name == "notice" else None)
    fit_on(make_bench(text_task, model, meter=meter), chat_tuning(chats))
    ((_, sequences, words),) = given
    assert list(words["names"]) == ["chats.jsonl:1", "chats.jsonl:1", "chats.jsonl:2"]
    (said,) = [text for text in notices if "differently" in text]
    assert said.endswith("1 of 2 conversations give one sequence an answer, 3 in all")
    decode = model.renderer.tokenizer.decode
    learnt = [decode([t for t, on in zip(one.token_ids, one.supervised, strict=True) if on]) for one in sequences]
    assert learnt == ["Nine metres.<|im_end|>", "Half a metre more.<|im_end|>", "In the store room.<|im_end|>"]


def test_what_a_chat_template_does_not_take_is_told_with_its_line(
    text_task: Task,
    make_module: Callable[..., Any],
    make_tokenizer: Callable[..., Any],
    make_bench: Any,
    fit_on: Any,
    tmp_path: Path,
) -> None:
    picky = "{% if messages | length > 4 %}{{ raise_exception('too many turns') }}{% endif %}" + THINKING
    model = LocalModel(make_module("llama"), Renderer(make_tokenizer(picky)), "picky", "digest", 512)
    long = write(tmp_path / "long.jsonl", ONE_TURN, (*TWO_TURNS, ("assistant", "Fine.")))
    with pytest.raises(DataError, match=r"long.jsonl:2: the model's chat template does not take it: too many turns"):
        fit_on(make_bench(text_task, model), chat_tuning(long))


def test_a_conversation_longer_than_the_context_is_told_with_its_line(
    text_task: Task, make_module: Callable[..., Any], renderer: Renderer, make_bench: Any, fit_on: Any, tmp_path: Path
) -> None:
    model = LocalModel(make_module("llama", max_position_embeddings=120), renderer, "short", "digest", 120)
    long = write(tmp_path / "long.jsonl", ONE_TURN, (("user", "Count"), ("assistant", "and one " * 30)))
    with pytest.raises(DataError, match=r"long.jsonl:2: \d+ tokens, but the model's context is 120; shorten it"):
        fit_on(make_bench(text_task, model), chat_tuning(long))


def test_other_chats_are_learnt_again_and_the_same_ones_elsewhere_are_not(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, given: list[Any], chats: Path, tmp_path: Path
) -> None:
    bench = make_bench(text_task, tiny_model)
    fit_on(bench, chat_tuning(chats), folder="first")
    moved = chats.rename(tmp_path / "moved.jsonl")
    fit_on(bench, chat_tuning(moved), folder="moved")
    assert len(given) == 1
    write(moved, ONE_TURN)
    fit_on(bench, chat_tuning(moved), folder="changed")
    assert [len(sequences) for _, sequences, _ in given] == [2, 1]
    assert "chats" not in TuneAdapter(rank=2).content()


def test_settings_that_do_not_go_together_are_refused(
    text_task: Task, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = text_task.without_test()
    assert chat_tuning(chats).check(task) == []
    (missing,) = TuneAdapter(learn="chats").check(task)
    assert missing == "chats: `learn: chats` needs a file of conversations; add `chats: conversations.jsonl`"
    (unread,) = TuneAdapter(chats=str(chats)).check(task)
    assert unread == f"chats: nothing reads '{chats}' here; add `learn: chats` or leave it out"
    monkeypatch.chdir(tmp_path.parent)
    (nowhere,) = chat_tuning(Path("chat.jsonl")).beside(tmp_path / "recipe.yaml").check(task)
    looked = f"looked in {tmp_path.parent} and {tmp_path}"
    assert nowhere == f"chats: there is no file 'chat.jsonl' (did you mean 'chats.jsonl'?); {looked}"
    found = chat_tuning(Path("chats.jsonl")).beside(tmp_path / "recipe.yaml")
    assert found.check(task) == []
    assert found.content() == chat_tuning(chats).content()
    assert list(found.questions())[-1] == (f"{chats}:2", "Where does the rope lie")


def test_lines_that_are_no_conversations_are_told_before_anything_is_computed(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, chats: Path
) -> None:
    with chats.open("a", encoding="utf-8") as file:
        file.write("{}\n" * 7)
    problems = chat_tuning(chats).check(text_task.without_test())
    assert [problem.partition(": found")[0] for problem in problems[:5]] == [
        f"chats: chats.jsonl:{line}" for line in range(3, 8)
    ]
    assert problems[5:] == ["chats: and 2 more"]
    with pytest.raises(DataError, match=r"cannot be learnt from: 7 problems"):
        fit_on(make_bench(text_task, tiny_model), chat_tuning(chats))
