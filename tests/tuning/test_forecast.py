"""Before the first step a training says what it will take; by that it is decided what is recomputed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.errors import ModelError
from toolkit.tuning import Forecast, TuneSettings, train
from toolkit.tuning.progress import StepReport

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own call
SMALL = TuneSettings(rank=4, epochs=2, effective_batch_size=4, learning_rate=1e-2, checkpoint_every=2)
GIGABYTE = 1 << 30


def forecast_of(module: Any, sequences: Any, folder: Path, **changes: Any) -> tuple[Forecast, bytes]:
    """What was told, and the bytes that were learnt."""
    told: list[Forecast] = []
    settings = SMALL.model_copy(update=changes)
    train(module, sequences, settings, folder, on_forecast=told.append)
    (found,) = told
    return found, (folder / "adapter_model.safetensors").read_bytes()


def test_it_is_told_before_the_first_step_and_holds_what_the_result_holds(
    llama: Any, rows: Any, tmp_path: Path
) -> None:
    told: list[Forecast | StepReport] = []
    result = train(llama(), rows(10), SMALL, tmp_path, on_forecast=told.append, on_step=told.append)
    forecast, *reports = told
    assert isinstance(forecast, Forecast)
    assert len(reports) == forecast.steps == result.steps == 6
    assert forecast.trainable_parameters == result.trainable_parameters
    assert forecast.total_parameters == result.total_parameters
    assert forecast.learning_rate == result.learning_rate
    assert forecast.supervised_share == result.supervised_tokens / result.seen_tokens
    assert forecast.seconds is not None
    assert forecast.seconds > 0
    assert forecast.notice is None


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.2}, {"method": "dora"}, {"neftune_alpha": 5.0}], ids=str)
def test_recomputing_is_told_and_changes_no_bit(llama: Any, rows: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    kept = forecast_of(llama(), rows(6), tmp_path / "kept", gradient_checkpointing="off", **changes)
    again = forecast_of(llama(), rows(6), tmp_path / "again", gradient_checkpointing="on", **changes)
    assert (kept[0].recompute, again[0].recompute) == (False, True)
    assert kept[1] == again[1]


@pytest.mark.parametrize(
    ("free", "asked", "recomputes"),
    [(0, "auto", True), (GIGABYTE, "auto", False), (None, "auto", False), (0, "off", False), (GIGABYTE, "on", True)],
)
def test_automatic_recomputing_goes_by_what_is_free(
    llama: Any,
    rows: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int | None,
    asked: str,
    recomputes: bool,
) -> None:
    monkeypatch.setattr("toolkit.tuning.forecast.free_memory_bytes", lambda _: free)
    forecast, _ = forecast_of(llama(), rows(4), tmp_path, gradient_checkpointing=asked)
    assert forecast.recompute is recomputes
    assert forecast.short is (free == 0)
    if free == 0:
        assert forecast.notice is not None
        assert "micro_batch_tokens" in forecast.notice
        assert ("gradient_checkpointing" in forecast.notice) is not recomputes


def test_a_model_that_cannot_recompute_says_so(
    llama: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.tuning.forecast.free_memory_bytes", lambda _: 0)
    module = llama()
    module.supports_gradient_checkpointing = False
    forecast, _ = forecast_of(module, rows(4), tmp_path, dropout=0.1)
    assert not forecast.recompute
    with pytest.raises(ModelError, match="micro_batch_tokens"):
        forecast_of(module, rows(4), tmp_path, dropout=0.1, gradient_checkpointing="on")


def test_the_base_still_computes_each_layer_once(llama: Any, rows: Any, tmp_path: Path) -> None:
    module = llama()
    before = {name: sorted(vars(part)) for name, part in module.named_modules()}
    forecast_of(module, rows(4), tmp_path, dropout=0.1, gradient_checkpointing="on")
    assert before == {name: sorted(vars(part)) for name, part in module.named_modules()}
    assert not module.is_gradient_checkpointing


def test_a_training_that_goes_on_tells_of_what_is_left(llama: Any, rows: Any, tmp_path: Path) -> None:
    told: list[Forecast] = []

    def stop_at_3(report: StepReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(llama(), rows(10), SMALL, tmp_path, on_forecast=told.append, on_step=stop_at_3)
    train(llama(), rows(10), SMALL, tmp_path, on_forecast=told.append)
    first, second = told
    assert (first.step, second.step) == (1, 3)
    assert first.steps == second.steps == 6


def test_a_probe_that_does_not_fit_promises_no_time(
    llama: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> float:
        raise torch.OutOfMemoryError

    whole, expected = forecast_of(llama(), rows(4), tmp_path / "whole")
    monkeypatch.setattr("toolkit.tuning.forecast._timed", full)
    forecast, found = forecast_of(llama(), rows(4), tmp_path / "full")
    assert whole.seconds is not None
    assert forecast.seconds is None
    assert found == expected


def test_it_leaves_no_trace_in_the_record(llama: Any, rows: Any, tmp_path: Path) -> None:
    forecast_of(llama(), rows(4), tmp_path)
    assert not {"forecast", "seconds", "memory_bytes"} & set(json.loads((tmp_path / "training.json").read_text()))


def test_larger_passes_are_said_to_need_more(llama: Any, rows: Any, tmp_path: Path) -> None:
    module = llama(max_position_embeddings=4096)
    few, many = rows(8, longest=20), rows(8, shortest=1000, longest=1200)
    small, _ = forecast_of(module, few, tmp_path / "small")
    large, _ = forecast_of(module, many, tmp_path / "large")
    assert small.memory_bytes is not None
    assert large.memory_bytes is not None
    assert large.memory_bytes > small.memory_bytes
