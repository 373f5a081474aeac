from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

import toolkit.runs.reopen
from toolkit.commands.inspect import inspection

EXPECTED = """\
== example test-1 ==
question: How long?
context: {"site": "north"}
gold: "14 days" | "two weeks"
gold span: leave [120:127]
group: leave
slices: taught

== lora_rag, seed 0 ==
sent: 4 tokens (question 3, passages 1), digest 8ab300112233
  | <|user|>How
  |  long?<|assistant|>
retrieved:
  1. leave [100:480]  score 0.712, used, holds a gold span
  2. travel [0:90]  score 0.500, dropped to fit the context
learnt from such an example: 7 tokens, 3 supervised
  | <|user|>How long?<|assistant|>[[14 days<|end|>]]
answered: "14 days" (answered, ended by stop, confidence 0.831)
in its words: 14 days.
cites: leave

== vote ==
sent: no token ids are known (a hosted model, or no model was asked)
answered: "b" (answered, ended by scored)
choices by score (best 3 of 3, the best leads by 1.750):
     -0.250  b
     -2.000  c
     -3.000  a
"""


@pytest.fixture
def inspect(
    monkeypatch: pytest.MonkeyPatch, command: Callable[..., Result], fake_run: Callable[..., Any]
) -> Callable[..., Result]:
    monkeypatch.setattr(toolkit.runs.reopen, "reopen", lambda root, listener: fake_run())
    return lambda *arguments: command("inspect", "runs/fake", *arguments)


def test_an_inspection_shows_what_was_sent_retrieved_learnt_and_answered(inspect: Callable[..., Result]) -> None:
    result = inspect("--example", "test-1")
    assert result.exit_code == 0
    assert result.stdout == EXPECTED


def test_token_ids_are_shown_with_the_mask(inspect: Callable[..., Result]) -> None:
    lines = inspect("--example", "test-1", "--ids").stdout.splitlines()
    assert [line for line in lines if line.startswith("token ids")] == [
        "token ids: 1 2 3 4",
        "token ids: 1 2 3 4 [[5 6 7]]",
    ]


def test_supervised_tokens_are_underlined_where_there_are_colours(fake_run: Callable[..., Any]) -> None:
    shown = "\n".join(inspection(fake_run(), "test-1", colour=True))
    assert "<|assistant|>\x1b[4;32m14 days<|end|>\x1b[0m" in shown
    assert "[[" not in shown


TRAINING = """\
== lora_rag, seed 0: train-1 ==
learnt: 7 tokens, 3 supervised
  | <|user|>How long?<|assistant|>[[14 days<|end|>]]
token ids: 1 2 3 4 [[5 6 7]]

== lora_rag, seed 0: train-2 ==
learnt: 5 tokens, 1 supervised
  | <|user|>How<|assistant|>[[14]]<|end|>
token ids: 1 2 4 [[5]] 7

== lora_rag, seed 0: train-3 ==
not learnt: it is too long for the model's context
"""


def test_training_shows_the_first_rows_of_train_with_their_masks(inspect: Callable[..., Result]) -> None:
    result = inspect("--training", "3", "--ids")
    assert result.exit_code == 0
    assert result.stdout == TRAINING
    assert inspect("--training", "1", "--ids").stdout == "".join(TRAINING.splitlines(keepends=True)[:4])


@pytest.mark.parametrize("options", [(), ("--example", "test-1", "--training", "2")])
def test_either_an_example_or_rows_of_train_are_shown(inspect: Callable[..., Result], options: tuple[str, ...]) -> None:
    result = inspect(*options)
    assert result.exit_code == 2
    assert result.stderr == "error: what shall be shown? Give either `--example ID` or `--training N`\n"


def test_an_unknown_example_is_code_2(inspect: Callable[..., Result]) -> None:
    result = inspect("--example", "test-9")
    assert result.exit_code == 2
    assert result.stderr == "error: no strategy answered 'test-9'\n"


def test_a_folder_without_a_run_is_code_2(command: Callable[..., Result], tmp_path: Path) -> None:
    result = command("inspect", str(tmp_path), "--example", "x")
    assert result.exit_code == 2
    assert "holds no run" in result.stderr
