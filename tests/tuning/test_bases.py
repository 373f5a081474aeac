"""What a training takes for its base, and a folder for what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import ModelError, RunError
from toolkit.models import load_adapter, merged
from toolkit.tuning import TuneSettings, train

SMALL = TuneSettings(rank=4, epochs=2, effective_batch_size=4, learning_rate=1e-2, checkpoint_every=2)


def test_an_adapter_that_would_be_lost_is_refused_and_can_be_merged_first(
    llama: Any, rows: Any, tmp_path: Path
) -> None:
    module = llama()
    train(module, rows(6), SMALL, tmp_path / "first")
    view = load_adapter(module, tmp_path / "first")
    for method in ("lora", "full"):
        settings = TuneSettings(method=method, max_steps=1)
        with pytest.raises(ModelError, match=r"carries an adapter already.*merge it first"):
            train(view, rows(6), settings, tmp_path / "second")
    again = train(merged(module, tmp_path / "first"), rows(6), SMALL, tmp_path / "second")
    assert again.losses[0] < train(module, rows(6), SMALL, tmp_path / "third").losses[0]


def test_a_folder_that_cannot_be_written_is_told_before_the_first_step(llama: Any, rows: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(RunError, match=r"taken.* cannot be written"):
        train(llama(), rows(6), SMALL, tmp_path / "taken", on_step=lambda report: pytest.fail("a step was taken"))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "falcon"])
def test_the_bases_own_dropout_is_switched_off(make_module: Any, rows: Any, tmp_path: Path, family: str) -> None:
    chances = ["attention_dropout", "hidden_dropout", "dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop"]
    module = make_module(family, fresh=True)
    known = {name: 0.5 for name in chances if hasattr(module.config, name)}
    assert known
    losses = [
        train(make_module(family, fresh=True, **asked), rows(6), SMALL, tmp_path / str(number)).losses
        for number, asked in enumerate(({}, known))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_noise_is_each_rows_own_where_positions_move(llama: Any, rows: Any, tmp_path: Path, kind: str) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "original_max_position_embeddings": 16}
    module = llama(rope_parameters=rope, max_position_embeddings=64)
    result = train(module, rows(6), SMALL.model_copy(update={"neftune_alpha": 5.0}), tmp_path)
    assert result.losses[-1] < result.losses[0]


def test_a_model_without_attention_is_trained_padded(make_module: Any, rows: Any, tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"target_modules": ("in_proj", "x_proj"), "epochs": 10})
    result = train(make_module("mamba", fresh=True, attention="eager"), rows(6), settings, tmp_path)
    assert result.how.startswith("padded")
    assert result.losses[-1] < result.losses[0]
