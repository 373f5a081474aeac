"""What an earlier call left in a training's folder: of another training nothing counts, of this one its time too."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import ModelError
from toolkit.models import adapter_digest
from toolkit.tuning import TuneSettings, train
from toolkit.tuning.adapter import write_atomically

SMALL = TuneSettings(rank=4, epochs=2, effective_batch_size=4, learning_rate=1e-2, checkpoint_every=2)


def test_what_another_training_left_in_the_folder_is_not_taken_for_this_ones(
    llama: Any, rows: Any, tmp_path: Path
) -> None:
    module, sequences = llama(), rows(4)
    for method, other in (("full", "lora"), ("lora", "full")):
        folder = tmp_path / method
        train(module, sequences, SMALL.model_copy(update={"method": other}), folder)
        again = train(module, sequences, SMALL.model_copy(update={"method": method}), folder)
        alone = train(module, sequences, SMALL.model_copy(update={"method": method}), tmp_path / f"{method} alone")
        assert again.digest == adapter_digest(folder) == alone.digest
        assert {path.name for path in folder.iterdir()} == {path.name for path in alone.folder.iterdir()}


def test_what_a_process_killed_while_it_wrote_has_left_is_removed(
    llama: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL leaves a file half written; the process that goes on has another number."""
    module, sequences = llama(), rows(12)

    def killed(report: Any) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(module, sequences, SMALL, tmp_path / "one", on_step=killed)
    for place in ("one/.adapter_model.safetensors.1", "one/checkpoint/.state.safetensors.1"):
        (tmp_path / place).write_bytes(b"half")
    seen: list[int] = []
    gone_on = train(module, sequences, SMALL, tmp_path / "one", on_step=lambda report: seen.append(report.step))
    alone = train(module, sequences, SMALL, tmp_path / "other")
    assert seen[0] == 3
    assert gone_on.digest == alone.digest
    assert {path.name for path in gone_on.folder.iterdir()} == {path.name for path in alone.folder.iterdir()}


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        path.open("wb").write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "adapter_model.safetensors", b"weights")
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_is_refused_leaves_the_earlier_adapter(llama: Any, rows: Any, tmp_path: Path) -> None:
    module, sequences = llama(), rows(4)
    digest = train(module, sequences, SMALL, tmp_path).digest
    with pytest.raises(ModelError, match="target_modules"):
        train(module, sequences, SMALL.model_copy(update={"target_modules": ("no_such_layer",)}), tmp_path)
    assert adapter_digest(tmp_path) == digest
    assert (tmp_path / "training.json").is_file()


def test_the_seconds_of_a_killed_call_are_those_up_to_its_checkpoint(
    llama: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        """As if the process had died."""

    now = [0.0]
    monkeypatch.setattr("toolkit.tuning.training.time.perf_counter", lambda: now[0])

    def late(report: Any) -> None:
        now[0] += 10.0
        if report.step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(llama(), rows(12), SMALL, tmp_path, on_step=late)
    assert train(llama(), rows(12), SMALL, tmp_path).resumed_seconds == 10.0  # a checkpoint every second step
    assert train(llama(), rows(12), SMALL, tmp_path).resumed_seconds == 0.0


@pytest.mark.parametrize("looks", [0, 2])
def test_a_caller_may_keep_the_work_until_what_was_trained_is_safe(
    llama: Any, rows: Any, tmp_path: Path, looks: int
) -> None:
    """Repeated until then, the call takes no step and leaves the same bytes."""
    settings = SMALL.model_copy(update={"validate_every": looks, "checkpoint_every": 25})
    first = train(llama(), rows(10), settings, tmp_path / "a", validate=lambda _: 0.5, work=tmp_path / "work")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert set(before) == {"adapter_config.json", "adapter_model.safetensors", "training.json"}
    shutil.rmtree(tmp_path / "a")
    steps: list[Any] = []
    second = train(
        llama(), rows(10), settings, tmp_path / "a", on_step=steps.append, validate=lambda _: 0.9,
        work=tmp_path / "work",
    )  # fmt: skip
    assert not steps
    assert second.losses == first.losses
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    assert (tmp_path / "work" / "checkpoint").is_dir()
