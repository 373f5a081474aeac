from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning import TuneSettings, train
from toolkit.tuning.adapter import new_adapter, resolved_rank
from toolkit.tuning.amounts import supervised_count
from toolkit.tuning.progress import StepReport
from toolkit.tuning.steps.choosing import choose
from toolkit.tuning.steps.loss import collate, token_losses

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own call

METHODS = ("lora", "rslora", "dora", "pissa", "olora")
PATTERNS = {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7}, "alpha_pattern": {"k_proj": 5, "down_proj": 64}}
SMALL = TuneSettings(rank=4, epochs=2, effective_batch_size=4, learning_rate=1e-2, checkpoint_every=2)
IDS = torch.arange(24).reshape(2, 12)


def changed(**fields: Any) -> TuneSettings:
    return TuneSettings(**{**SMALL.model_dump(), **fields})


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_the_automatic_rank_trains_as_much_as_is_supervised(llama: Any, method: str) -> None:
    module = llama()
    settings = changed(method=method, rank="auto", rank_pattern={"o_proj": 3})

    def trained(rank: int) -> int:
        adapted = new_adapter(module, settings.model_copy(update={"rank": rank}), seed=0)
        return sum(one.numel() for one in adapted.parameters() if one.requires_grad)

    for rank in (8, 16, 128):
        assert resolved_rank(module, settings, trained(rank)) == rank
        assert resolved_rank(module, settings, trained(rank) + 1) == 2 * rank
    assert resolved_rank(module, settings, 1) == 8
    assert resolved_rank(module, settings, 10**9) == 256
    assert resolved_rank(module, SMALL, 10**9) == 4


def test_the_automatic_rank_is_reported_and_saved(llama: Any, rows: Any, tmp_path: Path) -> None:
    result = train(llama(), rows(6), changed(rank="auto"), tmp_path)
    assert result.rank == json.loads((tmp_path / "training.json").read_text())["rank"] == 8
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 8


def test_b_moves_at_its_own_rate(llama: Any, rows: Any, tmp_path: Path) -> None:
    """B starts at 0 and AdamW's first step is the rate times a sign, whatever the gradient's size."""
    moved = {}
    for ratio in (1.0, 4.0):
        settings = changed(b_rate_ratio=ratio, max_steps=1, warmup_share=0.0, target_modules=("down_proj",))
        train(llama(), rows(6), settings, tmp_path / str(ratio))
        moved[ratio] = load_file(tmp_path / str(ratio) / "adapter_model.safetensors")
    for name, plain in moved[1.0].items():
        expected = plain if "lora_A" in name else 4 * plain
        torch.testing.assert_close(moved[4.0][name], expected, rtol=1e-5, atol=1e-8)
    ups = [tensor for name, tensor in moved[1.0].items() if "lora_B" in name]
    assert all(0.009 < tensor.abs().max() < 0.011 for tensor in ups)


@pytest.mark.parametrize("fields", [{"method": "dora"}, {}], ids=str)
def test_two_rates_are_two_groups_of_pytorchs_adamw(
    llama: Any, rows: Any, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """The oracle: every tensor for itself, its gradient the stock model's, clipped over all of them together."""
    module, sequences = llama(initializer_range=0.3), rows(4)
    settings = changed(**fields, b_rate_ratio=3.0, epochs=4, clip=0.5, weight_decay=0.1, schedule="constant")
    result = train(module, sequences, settings.model_copy(update={"warmup_share": 0.0}), tmp_path)
    adapted = new_adapter(module, settings, seed=0)
    trained = {name: one for name, one in adapted.named_parameters() if one.requires_grad}
    groups = [
        {"params": [one for name, one in trained.items() if ("lora_B" in name) == is_up], "lr": rate}
        for is_up, rate in ((False, 1e-2), (True, 3e-2))
    ]
    optimiser = torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), weight_decay=0.1)
    view, losses = adapted.get_base_model().train(), []
    for _ in range(4):
        loss = token_losses(view, collate(sequences, "cpu"), True).sum() / sum(map(supervised_count, sequences))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(trained.values()), 0.5)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert result.losses == pytest.approx(losses, abs=1e-4)
    assert losses[0] - losses[-1] > 0.05


class Killed(Exception):
    pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "fields",
    [
        {"b_rate_ratio": 4.0},
        {"b_rate_ratio": 4.0, "method": "dora"},
        {"method": "pissa"},
        {"method": "olora"},
        {"method": "eva"},
        {"neftune_alpha": 5.0},
    ],
    ids=str,
)
def test_a_killed_training_goes_on_to_the_same_bytes(
    llama: Any, rows: Any, tmp_path: Path, dtype: torch.dtype, fields: dict[str, Any]
) -> None:
    def kill(report: StepReport) -> None:
        if report.step == 3:
            raise Killed

    settings, sequences = changed(**fields), rows(10)
    train(llama(dtype), sequences, settings, tmp_path / "whole")
    with pytest.raises(Killed):
        train(llama(dtype), sequences, settings, tmp_path / "killed", on_step=kill)
    steps: list[int] = []
    train(llama(dtype), sequences, settings, tmp_path / "killed", on_step=lambda report: steps.append(report.step))
    assert steps[0] == 3
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("padded", [False, True])
def test_the_noise_is_as_large_as_each_sequences_length_asks(
    llama: Any, rows: Any, monkeypatch: pytest.MonkeyPatch, padded: bool
) -> None:
    if padded:
        monkeypatch.setattr("toolkit.tuning.steps.choosing.why_unknown", lambda module: "asked for")
    adapted = new_adapter(llama(), SMALL, seed=0)
    view = adapted.get_base_model().train()
    step, weights, how = choose(view, 0.0, 20, neftune_alpha=6.0)
    assert how.startswith("padded" if padded else "packed")
    sequences, seen = rows(2, shortest=6, longest=20), []
    lengths = [len(sequence.token_ids) for sequence in sequences]
    assert lengths[0] != lengths[1]
    assert step.tokens(sequences) == (2 * max(lengths) if padded else sum(lengths))
    view.get_input_embeddings().register_forward_hook(
        lambda embeddings, inputs, output: seen.append(output - embeddings.weight[inputs[0]])
    )
    torch.manual_seed(0)
    first = float(step(sequences, 1.0))
    assert weights.gradient.abs().max() > 0
    parts = seen[0] if padded else seen[0][0].split(lengths)
    for length, part in zip(lengths, parts, strict=True):
        largest = 6.0 / math.sqrt(length * 32)
        assert 0.95 * largest < part.abs().max() <= largest * (1 + 1e-5)
        assert part.mean().abs() < 0.1 * largest
    assert float(step(sequences, 1.0)) != first
    torch.manual_seed(0)
    assert float(step(sequences, 1.0)) == first
    view.eval()
    step(sequences, 1.0)
    assert seen[-1].abs().max() == 0


def test_noise_shares_no_prefix(llama: Any) -> None:
    start = tuple(range(12))
    sequences = [TrainingSequence((*start, last, 1), (False,) * 12 + (True,) * 2) for last in (20, 21, 22)]
    for alpha, tokens in ((0.0, 11 + 3 * 3), (5.0, 3 * 14)):
        adapted = new_adapter(llama(), SMALL, seed=0)
        step, *_ = choose(adapted.get_base_model().train(), 0.0, 20, neftune_alpha=alpha)
        assert step.tokens(sequences) == tokens


def test_a_learning_rate_of_full_fine_tuning_gets_a_notice(llama: Any, rows: Any, tmp_path: Path) -> None:
    result = train(llama(), rows(4), changed(learning_rate=2e-5, max_steps=1), tmp_path)
    (notice,) = result.notices
    assert "2e-05 looks like a learning rate of full fine-tuning" in notice
    assert json.loads((tmp_path / "training.json").read_text())["notices"] == [notice]
    for fine in ("auto", 3e-5, 1e-3):
        assert changed(learning_rate=fine).notices() == ()
