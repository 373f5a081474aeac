from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from toolkit.errors import DataError, ModelError
from toolkit.models import load_adapter
from toolkit.models.weights import tensors_digest
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning import TrainingResult, TuneSettings, train
from toolkit.tuning.progress import StepReport
from toolkit.tuning.schedule import rate_share
from toolkit.tuning.steps.loss import collate, token_losses

SMALL = TuneSettings(rank=4, epochs=2, effective_batch_size=4, learning_rate=1e-2, checkpoint_every=2)
FILES = ("adapter_config.json", "adapter_model.safetensors", "training.json")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, which must be the expected ones."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(found) == sorted(FILES)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_is_left_as_it_was(llama: Any, rows: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    module = llama(dtype)
    before = tensors_digest(module), [name for name, _ in module.named_modules()], module.config.to_dict()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    train(module, rows(6), SMALL, tmp_path)
    assert before == (tensors_digest(module), [name for name, _ in module.named_modules()], module.config.to_dict())
    assert module.config._attn_implementation == "sdpa"
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(part.training for part in module.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_a_copying_task_is_learnt_and_the_loaded_adapter_has_learnt_it(llama: Any, tmp_path: Path) -> None:
    sequences = [TrainingSequence((7, first, 9, first, 1), (False,) * 3 + (True,) * 2) for first in range(20, 28)]
    module = llama(initializer_range=0.3)  # a frozen head of tiny weights could not tell tokens apart
    result = train(module, sequences, SMALL.model_copy(update={"epochs": 60, "rank": 16}), tmp_path)
    assert result.losses[0] > 3.5
    assert result.losses[-1] < 0.1
    view = load_adapter(module, tmp_path)
    with torch.inference_mode():
        answers = [int(view(input_ids=torch.tensor([row.token_ids[:3]])).logits[0, -1].argmax()) for row in sequences]
    assert answers == list(range(20, 28))


def test_the_first_loss_is_the_bases_mean_over_supervised_tokens(llama: Any, rows: Any, tmp_path: Path) -> None:
    module, sequences = llama(), rows(4)
    result = train(module, sequences, SMALL, tmp_path)
    expected = float(token_losses(module, collate(sequences, "cpu"), True).mean())
    assert result.losses[0] == pytest.approx(expected, abs=1e-5)


class Killed(Exception):
    pass


def kill_at(wanted: int) -> Any:
    def on_step(report: StepReport) -> None:
        if report.step == wanted:
            raise Killed

    return on_step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("killed", [1, 3, 4])
def test_a_killed_training_goes_on_to_the_same_bytes(
    llama: Any, rows: Any, tmp_path: Path, dtype: torch.dtype, killed: int
) -> None:
    settings, sequences = SMALL.model_copy(update={"dropout": 0.1}), rows(10)
    train(llama(dtype), sequences, settings, tmp_path / "whole")
    with pytest.raises(Killed):
        train(llama(dtype), sequences, settings, tmp_path / "killed", on_step=kill_at(killed))
    assert not (tmp_path / "killed" / "training.json").exists()
    steps: list[int] = []
    train(llama(dtype), sequences, settings, tmp_path / "killed", on_step=lambda report: steps.append(report.step))
    assert steps == list(range(1 + 2 * (killed // 2), 7))
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


def test_a_checkpoint_of_another_training_is_not_gone_on_from(llama: Any, rows: Any, tmp_path: Path) -> None:
    for folder, changed in (("seed", {"seed": 1}), ("data", {"sequences": rows(10, seed=1)}), ("base", {})):
        with pytest.raises(Killed):
            train(llama(), rows(10), SMALL, tmp_path / folder, on_step=kill_at(5))
        base = llama()
        if folder == "base":
            base.get_input_embeddings().weight.data[0, 0] += 1
        reports: list[StepReport] = []
        arguments = {"sequences": rows(10), "seed": 0, **changed}
        train(base, settings=SMALL, folder=tmp_path / folder, on_step=reports.append, **arguments)
        assert reports[0].step == 1, folder


def test_a_damaged_checkpoint_only_costs_time(llama: Any, rows: Any, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(llama(), rows(10), SMALL, tmp_path / "a", on_step=kill_at(3))
    state = tmp_path / "a" / "checkpoint" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    train(llama(), rows(10), SMALL, tmp_path / "a")
    train(llama(), rows(10), SMALL, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from conftest import random_sequences, tiny_llama
from toolkit.tuning import TuneSettings, train
torch.set_num_threads(1)
for name in ("float32", "bfloat16"):
    settings = TuneSettings(rank=4, epochs=2, effective_batch_size=4, dropout=0.1)
    module = tiny_llama(getattr(torch, name), num_hidden_layers=3)  # from 20 layers on PEFT shortens their names
    train(module, random_sequences(10), settings, {folder!r} + "/" + name, seed=5)
"""


def test_another_process_gives_the_same_bytes(llama: Any, rows: Any, tmp_path: Path) -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "there"))
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, env=environment)
    for name in ("float32", "bfloat16"):
        settings = TuneSettings(rank=4, epochs=2, effective_batch_size=4, dropout=0.1)
        module = llama(getattr(torch, name), num_hidden_layers=3)
        train(module, rows(10), settings, tmp_path / "here" / name, seed=5)
        assert contents(tmp_path / "here" / name) == contents(tmp_path / "there" / name)


def test_the_result_counts_what_was_seen(llama: Any, rows: Any, tmp_path: Path) -> None:
    sequences, told = rows(6), []
    module = llama()
    result = train(module, sequences, SMALL, tmp_path, on_step=told.append)
    base = sum(parameter.numel() for parameter in module.parameters())
    assert isinstance(result, TrainingResult)
    assert result.steps == len(result.losses) == 4
    assert (
        result.seen_tokens == 2 * sum(len(row.token_ids) for row in sequences) == sum(report.tokens for report in told)
    )
    assert result.supervised_tokens == 2 * sum(sum(row.supervised) for row in sequences)
    stored = sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values())
    assert (result.trainable_parameters, result.total_parameters) == (stored, base + stored)
    assert [(report.step, report.steps) for report in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [report.loss for report in told] == list(result.losses)
    assert result.seconds > 0
    summary = json.loads((tmp_path / "training.json").read_text())
    assert "seconds" not in summary
    assert summary["losses"] == list(result.losses)
    assert TuneSettings(**summary["settings"]) == SMALL


CHANGED = {
    "method": "rslora",
    "rank": 8,
    "alpha": 16,
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"q_proj": 8},
    "b_rate_ratio": 4.0,
    "dropout": 0.3,
    "neftune_alpha": 5.0,
    "target_modules": ("q_proj", "v_proj"),
    "learning_rate": 5e-3,
    "epochs": 3,
    "max_steps": 3,
    "effective_batch_size": 2,
    "micro_batch_tokens": 20,
    "micro_batch_size": 1,
    "warmup_share": 0.5,
    "schedule": "constant",
    "beta1": 0.5,
    "beta2": 0.5,
    "weight_decay": 0.5,
    "clip": 0.01,
}


@pytest.fixture(scope="module")
def unchanged(llama: Any, rows: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("unchanged")
    train(llama(), rows(6), SMALL, folder)
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("field", sorted(CHANGED))
def test_every_setting_is_read(llama: Any, rows: Any, tmp_path: Path, unchanged: bytes, field: str) -> None:
    train(llama(), rows(6), SMALL.model_copy(update={field: CHANGED[field]}), tmp_path)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() != unchanged


@pytest.mark.parametrize(("every", "exists"), [(0, False), (3, False), (2, True)])
def test_checkpoints_are_written_as_often_as_set(
    llama: Any, rows: Any, tmp_path: Path, every: int, exists: bool
) -> None:
    with pytest.raises(Killed):
        train(llama(), rows(6), SMALL.model_copy(update={"checkpoint_every": every}), tmp_path, on_step=kill_at(2))
    assert (tmp_path / "checkpoint" / "state.safetensors").exists() is exists


def test_the_list_of_settings_is_complete() -> None:
    elsewhere = {"checkpoint_every", "dpo_beta", "validate_every", "patience", "gradient_checkpointing"}
    # each has a test of its own: here, test_preferences, test_selection, test_forecast
    assert {*CHANGED, *elsewhere} == set(TuneSettings.model_fields)


def test_settings_refuse_what_they_do_not_know() -> None:
    for wrong in ({"ranks": 8}, {"rank": 0}, {"learning_rate": -1}, {"learning_rate": "fast"}, {"dropout": 1.0}):
        with pytest.raises(ValidationError):
            TuneSettings(**wrong)
    assert TuneSettings(learning_rate="2e-5").learning_rate == 2e-5  # YAML 1.1 reads 2e-5 as a text


def test_the_automatic_learning_rate_follows_the_size() -> None:
    shapes = [("llama", 576), ("llama", 2048), ("llama", 8192), ("qwen2", 896), ("qwen3", 4096), ("gemma2", 2304)]
    configs = [SimpleNamespace(model_type=kind, hidden_size=size) for kind, size in shapes]
    rates = [TuneSettings().resolved_learning_rate(config, 100) for config in configs]
    assert rates == pytest.approx([1.322e-3, 4.908e-4, 1.662e-4, 5.321e-4, 4.730e-4, 4.477e-4], rel=1e-3)
    assert TuneSettings().resolved_learning_rate(configs[0], 99) == pytest.approx(1.5 * rates[0])
    assert TuneSettings(learning_rate=2e-4).resolved_learning_rate(configs[0], 1) == 2e-4


def test_a_share_of_the_steps_is_not_rounded_up_by_its_last_digit() -> None:
    assert TuneSettings(warmup_share=0.07).warmup_steps(100) == 7
    assert TuneSettings(warmup_share=0.07).warmup_steps(101) == 8


def test_a_pattern_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"rank_pattern: '\(' is no regular expression"):
        TuneSettings(rank_pattern={"(": 2})
    with pytest.raises(ValidationError, match="is no regular expression"):
        TuneSettings(alpha_pattern={"(?i)q_proj": 2})


@pytest.mark.parametrize(("steps", "warmup"), [(1, 1), (20, 2), (60, 6), (100, 10), (300, 10), (334, 11), (1000, 30)])
def test_the_automatic_warm_up_is_ten_steps_or_3_percent_but_never_more_than_10(steps: int, warmup: int) -> None:
    assert TuneSettings().warmup_steps(steps) == warmup
    assert TuneSettings(warmup_share=0).warmup_steps(steps) == 0


def test_a_large_batch_gets_a_notice() -> None:
    assert TuneSettings(effective_batch_size=32).notices() == ()
    (notice,) = TuneSettings(effective_batch_size=64).notices()
    assert "smaller steps" in notice
    assert TuneSettings(method="full", effective_batch_size=64).notices() == ()


def test_the_rate_rises_falls_and_is_never_0() -> None:
    settings = TuneSettings(warmup_share=0.2)
    shares = [rate_share(step, 10, settings) for step in range(10)]
    assert shares[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert shares[2:] == pytest.approx([(10 - step) / 8 for step in range(2, 10)])
    cosine = settings.model_copy(update={"schedule": "cosine"})
    assert rate_share(6, 10, cosine) == pytest.approx(0.5)
    assert rate_share(0, 1, settings) > 0


def test_a_step_that_is_not_a_number_stops_the_training(llama: Any, rows: Any, tmp_path: Path) -> None:
    module = llama()
    module.get_decoder().norm.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"step 1 of 4.*learning_rate"):
        train(module, rows(6), SMALL, tmp_path)


def test_without_sequences_nothing_is_trained(llama: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training sequences"):
        train(llama(), [], SMALL, tmp_path)
    assert not tmp_path.joinpath("training.json").exists()


def test_half_precision_without_range_is_refused(llama: Any, rows: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="bfloat16"):
        train(llama(torch.float16), rows(4), SMALL, tmp_path)


def test_the_package_is_light_to_import() -> None:
    script = "import sys, toolkit.tuning; toolkit.tuning.TuneSettings(); print(*{'torch', 'peft'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == ""
