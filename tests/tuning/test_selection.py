from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from toolkit.errors import ModelError
from toolkit.tuning import TuneSettings, train
from toolkit.tuning.progress import StepReport
from toolkit.tuning.selection import Look

LOOKING = TuneSettings(
    rank=4, max_steps=6, epochs=3, effective_batch_size=4, learning_rate=1e-2, checkpoint_every=0, validate_every=2
)
ADAPTER = "adapter_model.safetensors"


class Scripted:
    """A metric on validation that is known beforehand, and the states that it was asked for."""

    def __init__(self, values: dict[int, float]) -> None:
        self._values, self.states = values, {}

    def __call__(self, state: Path) -> float:
        step = int(state.name)
        assert step not in self.states, "asked twice"
        self.states[step] = (state / ADAPTER).read_bytes()
        return self._values[step]


def test_the_state_that_does_best_is_kept(llama: Any, rows: Any, tmp_path: Path) -> None:
    looks: list[Look] = []
    validate = Scripted({0: 0.1, 2: 0.4, 4: 0.7, 6: 0.5})
    result = train(llama(), rows(10), LOOKING, tmp_path, validate=validate, on_look=looks.append)
    assert list(validate.states) == [0, 2, 4, 6]
    assert (tmp_path / ADAPTER).read_bytes() == validate.states[4]
    assert result.kept_step == 4
    assert result.looks == ((0, 0.1), (2, 0.4), (4, 0.7), (6, 0.5))
    assert looks == [Look(0, 6, 0.1, True), Look(2, 6, 0.4, True), Look(4, 6, 0.7, True), Look(6, 6, 0.5, False)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", ADAPTER, "training.json"]


def test_without_looks_the_last_state_is_kept(llama: Any, rows: Any, tmp_path: Path) -> None:
    validate = Scripted({0: 0, 2: 0, 4: 0, 6: 1})
    looked = train(llama(), rows(10), LOOKING, tmp_path / "looked", validate=validate)
    plain = train(llama(), rows(10), LOOKING.model_copy(update={"validate_every": 0}), tmp_path / "plain")
    assert (tmp_path / "plain" / ADAPTER).read_bytes() == (tmp_path / "looked" / ADAPTER).read_bytes()
    assert (plain.looks, plain.kept_step, looked.kept_step) == ((), 6, 6)


def test_of_equals_the_earliest_is_kept_even_the_base_itself(llama: Any, rows: Any, tmp_path: Path) -> None:
    result = train(llama(), rows(10), LOOKING, tmp_path, validate=lambda state: 0.5)
    assert result.kept_step == 0
    ups = [tensor for name, tensor in load_file(tmp_path / ADAPTER).items() if "lora_B" in name]
    assert ups
    assert not any(tensor.any() for tensor in ups)


def test_the_last_step_is_looked_at_too(llama: Any, rows: Any, tmp_path: Path) -> None:
    settings = LOOKING.model_copy(update={"validate_every": 4})
    result = train(llama(), rows(10), settings, tmp_path, validate=Scripted({0: 0, 4: 1, 6: 2}))
    assert result.kept_step == 6


def test_a_metric_that_is_no_number_is_an_error(llama: Any, rows: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the metric after 2 steps is no number"):
        train(llama(), rows(10), LOOKING, tmp_path, validate=Scripted({0: 0.1, 2: float("nan")}))


def test_a_metric_may_be_a_number_of_torchs(llama: Any, rows: Any, tmp_path: Path) -> None:
    result = train(llama(), rows(10), LOOKING, tmp_path, validate=lambda state: torch.tensor(0.5))  # type: ignore[arg-type,return-value]
    assert result.looks == ((0, 0.5), (2, 0.5), (4, 0.5), (6, 0.5))


def test_patience_ends_a_training(llama: Any, rows: Any, tmp_path: Path) -> None:
    validate = Scripted({0: 0.3, 2: 0.2, 4: 0.1})
    settings = LOOKING.model_copy(update={"patience": 2})
    result = train(llama(), rows(10), settings, tmp_path, validate=validate)
    assert (result.steps, result.kept_step, len(result.losses)) == (4, 0, 4)
    whole = train(llama(), rows(10), settings, tmp_path / "b", validate=Scripted({0: 0.3, 2: 0.2, 4: 0.4, 6: 0.1}))
    assert (whole.steps, whole.kept_step) == (6, 4)


@pytest.mark.parametrize("every", [0, 1, 4])
@pytest.mark.parametrize("killed", ["step 1", "step 2", "step 3", "step 5", "look 2", "look 4"])
def test_a_killed_training_takes_no_look_twice_and_ends_with_the_same_bytes(
    llama: Any, rows: Any, tmp_path: Path, every: int, killed: str
) -> None:
    kind, at = killed.split()
    settings = LOOKING.model_copy(update={"checkpoint_every": every})
    values = {0: 0.1, 2: 0.7, 4: 0.6, 6: 0.5}
    train(llama(), rows(10), settings, tmp_path / "whole", validate=Scripted(values))
    asked: list[int] = []

    def validate(state: Path) -> float:
        asked.append(int(state.name))
        return values[int(state.name)]

    def kill(told: StepReport | Look) -> None:
        if told.step == int(at):
            raise KeyboardInterrupt

    watch: dict[str, Callable[[Any], None]] = {"on_step" if kind == "step" else "on_look": kill}
    with pytest.raises(KeyboardInterrupt):
        train(llama(), rows(10), settings, tmp_path / "killed", validate=validate, **watch)
    train(llama(), rows(10), settings, tmp_path / "killed", validate=validate)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), path.name
    again = [step for step in set(asked) if asked.count(step) > 1]
    assert len(again) <= 2, "only looks since the last checkpoint"
    assert not (kind == "step" and int(at) > 2 and 2 in again)


def test_a_state_that_is_gone_only_costs_time(llama: Any, rows: Any, tmp_path: Path) -> None:
    def kill(report: StepReport) -> None:
        if report.step == 3:
            for state in (tmp_path / "killed" / "states").iterdir():
                for file in state.iterdir():
                    file.unlink()
                state.rmdir()
            raise KeyboardInterrupt

    settings = LOOKING.model_copy(update={"checkpoint_every": 1})
    with pytest.raises(KeyboardInterrupt):
        train(llama(), rows(10), settings, tmp_path / "killed", validate=lambda state: 0.5, on_step=kill)
    train(llama(), rows(10), settings, tmp_path / "killed", validate=lambda state: 0.5)
    train(llama(), rows(10), settings, tmp_path / "whole", validate=lambda state: 0.5)
    assert (tmp_path / "whole" / ADAPTER).read_bytes() == (tmp_path / "killed" / ADAPTER).read_bytes()


def test_looks_need_somebody_who_looks(llama: Any, rows: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="validate_every: there is nothing to validate with"):
        train(llama(), rows(4), LOOKING, tmp_path)
    with pytest.raises(ValidationError, match="set `validate_every` too"):
        TuneSettings(patience=3)


@pytest.mark.parametrize("method", ["full", "olora"])
def test_states_of_other_methods_are_kept_as_well(llama: Any, rows: Any, tmp_path: Path, method: str) -> None:
    rank = {} if method == "full" else {"rank": 4}
    settings = TuneSettings(method=method, **rank, max_steps=4, effective_batch_size=4, validate_every=2)
    seen: dict[int, dict[str, bytes]] = {}

    def validate(state: Path) -> float:
        seen[int(state.name)] = {path.name: path.read_bytes() for path in state.iterdir()}
        return 1.0 if state.name == "2" else 0.0

    train(llama(torch.bfloat16), rows(16), settings, tmp_path, validate=validate)
    for name, content in seen[2].items():
        assert (tmp_path / name).read_bytes() == content
