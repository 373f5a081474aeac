"""Conversations beside a recipe: learnt, shown again, and refused where they ask what the test asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import RecipeError, RunError
from toolkit.runs.reopen import reopen
from toolkit.runs.run import RunResult

SAID = ("Hello, who keeps the store room?", "The keeper does.", "And at night?", "Nobody does.")
STRATEGIES = {
    "zero_shot": [],
    "tuned": [
        {
            "tune": {
                "rank": 2,
                "max_steps": 1,
                "target_modules": ["q_proj"],
                "learn": "chats",
                "chats": "own-chats.jsonl",
            }
        }
    ],
}


def line(*said: str) -> str:
    roles = ("user", "assistant") * len(said)
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    return json.dumps({"messages": messages}) + "\n"


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Beside the recipe."""
    path = tmp_path / "own-chats.jsonl"
    path.write_text(line(*SAID) + line("Where is it?", "Behind the gate.") + line(*SAID[:2]), encoding="utf-8")
    return path


def test_what_is_shown_of_the_training_is_what_it_was_given(
    start: Callable[..., RunResult], chats: Path, given: list[list[Any]]
) -> None:
    result = start(STRATEGIES, limit=2, embedder=None)
    finished = reopen(result.folder)
    (sequences,) = given
    shown = finished.training(2)
    assert [(item.name, item.sequence) for item in shown] == [
        ("own-chats.jsonl:1", sequences[0]),
        ("own-chats.jsonl:2", sequences[1]),
    ]
    assert len(sequences) == 3
    recorded = result.folder.joinpath("manifest.json").read_text(encoding="utf-8")
    assert '"own-chats.jsonl"' in recorded
    assert str(chats) not in recorded
    chats.write_text(line(*SAID), encoding="utf-8")
    with pytest.raises(RunError, match=r"own-chats.jsonl' is no longer what 'tuned' of the run in .* learnt"):
        reopen(result.folder).training(1)
    chats.unlink()
    with pytest.raises(RunError, match="is no longer what 'tuned'"):
        reopen(result.folder).training(1)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("Do tell:  What COLOUR is lamp number 4?!", "test example 'lamp-4'"),
        ("what colour is rope number 3", "validation example 'rope-3'"),
    ],
)
def test_a_question_of_test_or_validation_is_refused_with_its_line(
    start: Callable[..., RunResult], chats: Path, question: str, said: str
) -> None:
    with chats.open("a", encoding="utf-8") as file:
        file.write(line(*SAID[:2], question, "amber"))
    with pytest.raises(RecipeError) as refused:
        start(STRATEGIES, embedder=None)
    assert f"own-chats.jsonl:4 asks word for word what the {said} asks; take that conversation out" in str(
        refused.value
    )


def test_a_train_question_or_an_answer_that_says_a_test_question_is_none_of_them(
    start: Callable[..., RunResult], chats: Path
) -> None:
    with chats.open("a", encoding="utf-8") as file:
        file.write(line("what colour is lamp number 0", "what colour is lamp number 4"))
    assert start(STRATEGIES, limit=2, embedder=None).folder.is_dir()
