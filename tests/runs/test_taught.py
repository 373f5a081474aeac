"""What a finished run shows of its trainings is what they were given, whatever they learnt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.commands.inspect import training_rows
from toolkit.errors import RunError
from toolkit.json_lines import read_lines
from toolkit.rendering.prompt import Preference
from toolkit.runs.reopen import FinishedRun, reopen
from toolkit.runs.run import RunResult

TUNE = {"rank": 2, "max_steps": 1, "target_modules": ["q_proj"]}
REJECTING = {"lamp-1": ["no idea"], "rope-0": ["no idea", "all of them"]}


@pytest.fixture
def own_task(world: Any, tmp_path: Path) -> Path:
    """The text task with answers that some rows of train reject."""
    task = Path(shutil.copytree(world.text_task, tmp_path / "own-task"))
    rows = [json.loads(line) for line in (task / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps({**row, "rejected": REJECTING.get(row["id"], [])}) + "\n" for row in rows]
    (task / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    return task


@pytest.fixture
def learn(start: Callable[..., RunResult], own_task: Path) -> Callable[..., FinishedRun]:
    def learnt(**settings: Any) -> FinishedRun:
        strategies = {"zero_shot": [], "tuned": [{"tune": {**TUNE, **settings}}]}
        return reopen(start(strategies, task=str(own_task), limit=2, embedder=None).folder)

    return learnt


def asked(finished: FinishedRun) -> str:
    """A test example that was answered."""
    return str(read_lines(finished.folder.outputs("zero_shot", None))[0]["output"]["example_id"])


def test_preferences_are_shown_as_the_chosen_and_each_rejected_sequence(
    learn: Callable[..., FinishedRun], given: list[list[Any]]
) -> None:
    finished = learn(learn="preferences")
    (pairs,) = given
    one, two, three = pairs
    assert all(isinstance(pair, Preference) for pair in pairs)
    shown = finished.training(6)
    ids = [example.id for example in finished.prepared.task.train[:6]]
    rejecting = [example_id for example_id in ids if example_id in REJECTING]
    assert rejecting == ["lamp-1", "rope-0"]
    learnt = [(item.name, item.how, item.sequence) for item in shown if item.sequence is not None]
    assert learnt == [
        ("lamp-1, chosen", "preferred", one.chosen),
        ("lamp-1, rejected answer 1", "rejected", one.rejected),
        ("rope-0, chosen", "preferred", two.chosen),
        ("rope-0, rejected answer 1", "rejected", two.rejected),
        ("rope-0, rejected answer 2", "rejected", three.rejected),
    ]
    left_out = {item.name: item.why_not for item in shown if item.sequence is None}
    assert left_out == {name: "it rejects no answer" for name in ids if name not in REJECTING}
    lines = list(training_rows(finished, 6))
    assert "== tuned, seed 0: rope-0, rejected answer 2 ==" in lines
    assert any(line.startswith("rejected: ") for line in lines)
    assert "not learnt: it rejects no answer" in lines
    assert {item.trained for item in finished.show(asked(finished))} == {None}  # it rejects nothing


def test_of_a_corpus_the_first_windows_are_shown(
    learn: Callable[..., FinishedRun], given: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.rendering import raw_text

    finished = learn(learn="corpus", window_tokens=16)
    (windows,) = given
    cut: list[str] = []
    plain = raw_text.document_ids
    monkeypatch.setattr(raw_text, "document_ids", lambda chat, text: (cut.append(text), plain(chat, text))[1])
    shown = finished.training(3)
    assert len(cut) == 1  # no document is cut that is not shown
    assert [(item.name, item.sequence) for item in shown] == [
        (f"window {number}", window) for number, window in enumerate(windows[:3])
    ]
    assert len(windows) > 3
    assert {item.trained for item in finished.show(asked(finished))} == {None}


def test_another_corpus_than_the_one_that_was_learnt_is_not_shown(
    learn: Callable[..., FinishedRun], own_task: Path
) -> None:
    folder = learn(learn="corpus").folder.root
    (own_task / "corpus" / "lamp.md").write_text("The lamp is out.\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"the corpus of 'store-room' is no longer that of the run"):
        reopen(folder).training(1)
