"""EVA on padded rows, with many directions, and gone on with where its ranks come out otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.tuning import StepReport, TuneSettings, eva, train


def test_padding_counts_nowhere_also_where_a_layer_reads_its_tokens_in_one_row() -> None:
    inputs = eva._Inputs(wanted=2)
    inputs.real = torch.tensor([[True, True, True], [True, False, False]])
    read = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    inputs.take("apart", None, (read,))
    inputs.take("in one", None, (read.view(-1, 8).clone(),))
    inputs.take("real ones", None, (read[inputs.real],))
    found = inputs.found()
    for name in ("in one", "real ones"):
        torch.testing.assert_close(found[name][0], found["apart"][0])


def test_passes_hold_as_many_tokens_as_directions_are_looked_for(rows: Any) -> None:
    sequences = rows(600, shortest=12, longest=12)
    passes = eva._passes(sequences, 5000)
    assert [sum(len(one.token_ids) for one in part) for part in passes] == [5004]
    assert sum(len(part) for part in eva._passes(sequences, eva.PASS_TOKENS)) == -(-eva.TOKENS // 12)


def test_a_checkpoint_of_other_shapes_is_not_gone_on_from(
    llama: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVA finds its ranks anew, and another machine may share them out in another way, of the same sum."""
    settings = TuneSettings(
        method="eva", rank=4, epochs=1, effective_batch_size=4, learning_rate=1e-2, checkpoint_every=2
    )

    def killed(report: StepReport) -> None:
        if report.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(llama(initializer_range=0.3), rows(30), settings, tmp_path, on_step=killed)
    found = eva._shared_out

    def moved(shares: Any, ranks: Any) -> dict[str, int]:
        counts = dict(found(shares, ranks))
        one, other = (name for name in counts if name.endswith("q_proj"))
        return {**counts, one: counts[one] + 1, other: counts[other] - 1}

    monkeypatch.setattr(eva, "_shared_out", moved)
    steps: list[int] = []
    train(llama(initializer_range=0.3), rows(30), settings, tmp_path, on_step=lambda report: steps.append(report.step))
    assert steps[0] == 1
