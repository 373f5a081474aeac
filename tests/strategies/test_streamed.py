"""Lessons on disk: a recipe's corpus is trained on from the work folder, with the bytes of a list in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolkit.inference import LocalModel
from toolkit.rendering import TrainingSequence
from toolkit.retrieval import read_corpus
from toolkit.seeds import derive
from toolkit.store import Store
from toolkit.strategies.streamed import Numbered, streamed
from toolkit.strategies.tune import TuneAdapter
from toolkit.tasks.task import Task
from toolkit.tuning import SequenceFile, train
from toolkit.tuning.progress import StepReport

READING = {"rank": 2, "learn": "corpus", "window_tokens": 16, "max_steps": 4, "checkpoint_every": 1, "dropout": 0.1}
KEPT = ("adapter_model.safetensors", "adapter_config.json", "training.json")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each training was given."""
    from toolkit.tuning import training

    seen: list[Any] = []
    plain = training.train

    def noted(module: Any, sequences: Any, *rest: Any, **words: Any) -> Any:
        seen.append(sequences)
        return plain(module, sequences, *rest, **words)

    monkeypatch.setattr(training, "train", noted)
    return seen


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in KEPT}


def test_a_corpus_is_read_from_disk_and_gives_the_bytes_of_a_list(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, given: list[Any], tmp_path: Path
) -> None:
    adapter = TuneAdapter.model_validate(READING)
    fitted = fit_on(make_bench(text_task, tiny_model), adapter)
    assert [type(sequences) for sequences in given] == [SequenceFile]
    assert text_task.corpus is not None
    texts = [document.text for document in read_corpus(text_task.corpus)]
    windows = tiny_model.renderer.text_sequences(texts, 16)
    train(tiny_model.module, windows, adapter.settings, tmp_path / "listed", seed=derive(0, "fit"))
    assert files(fitted.system.parts[0].weights.folder) == files(tmp_path / "listed")
    assert list((tmp_path / "system").rglob("*.i32")) == []  # of the work nothing stays
    assert list((tmp_path / "system").glob(".*")) == []


def test_a_killed_fit_writes_them_again_and_goes_on_from_its_checkpoint(
    text_task: Task,
    tiny_model: LocalModel,
    make_bench: Any,
    fit_on: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from toolkit.strategies import tune

    bench, adapter = make_bench(text_task, tiny_model), TuneAdapter.model_validate(READING)
    told, steps = tune.asdict, list[int]()

    def noted(report: Any, last: int) -> Any:
        if isinstance(report, StepReport):
            steps.append(report.step)
            if report.step == last:
                raise KeyboardInterrupt
        return told(report)

    monkeypatch.setattr(tune, "asdict", lambda report: noted(report, 3))
    with pytest.raises(KeyboardInterrupt):
        fit_on(bench, adapter, folder="killed")
    (work,) = (tmp_path / "killed").glob(".*.work-*")
    for kind in ("new", "old"):
        (work / f".sequences.4711.{kind}").mkdir()  # of a process killed while writing
    (work / "sequences" / "token_ids.i32").write_bytes(b"torn")
    monkeypatch.setattr(tune, "asdict", lambda report: noted(report, 0))
    again = fit_on(bench, adapter, folder="killed")
    assert steps == [1, 2, 3, 4]
    fresh = make_bench(text_task, tiny_model, store=Store(tmp_path / "another-store"))
    whole = fit_on(fresh, adapter, folder="whole")
    assert steps == [1, 2, 3, 4, 1, 2, 3, 4]
    assert files(again.system.parts[0].weights.folder) == files(whole.system.parts[0].weights.folder)


def test_sequences_are_written_as_they_are_made(tmp_path: Path) -> None:
    made: list[int] = []
    (tmp_path / ".sequences.1.new").mkdir()

    def sequences() -> Any:
        for number in range(3):
            made.append(number)
            yield TrainingSequence((number, 7), (False, True))

    found = streamed(tmp_path, sequences())
    assert [path.name for path in tmp_path.iterdir()] == ["sequences"]
    assert made == [0, 1, 2]
    assert [one.token_ids[0] for one in found] == [0, 1, 2]
    assert [one.token_ids[0] for one in streamed(tmp_path, list(found)[:2])] == [0, 1]


def test_names_are_made_when_they_are_asked_for() -> None:
    names = Numbered("file.jsonl:", (3, 3, 8))
    assert (len(names), list(names)) == (3, ["file.jsonl:3", "file.jsonl:3", "file.jsonl:8"])
    assert names[-2:] == ["file.jsonl:3", "file.jsonl:8"]
    assert "file.jsonl:4" not in names
