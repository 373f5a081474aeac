"""Two processes over gloo train like one with the same effective batch; what fails in one ends both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from several_processes import Several, several

from toolkit.tuning import TuneSettings, train
from toolkit.tuning.batches import plan

SMALL = {"rank": 4, "epochs": 2, "effective_batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 2}
SECONDS = 30.0
"""What fails in one process has ended the other by then, however busy the machine: neither waits for hours."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Several]:
    """Two processes that serve all tests of this file that leave them alive."""
    with several() as processes:
        yield processes


def updates(folder: Path) -> dict[str, torch.Tensor]:
    """B A of every layer: what an adapter adds, however it is factored."""
    tensors = load_file(folder / "adapter_model.safetensors")
    downs = [name for name in tensors if "lora_A" in name]
    found = {name: tensors[name.replace("lora_A", "lora_B")] @ tensors[name] for name in downs}
    return found | {name: tensor for name, tensor in tensors.items() if "magnitude" in name}


CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a sequence a pass": {"micro_batch_size": 1},
    "a few tokens a pass": {"micro_batch_tokens": 24, "effective_batch_size": 8},
    "odd batches": {"effective_batch_size": 5},
    "fewer sequences than processes": {"effective_batch_size": 1, "max_steps": 6},
    "a step of one sequence at the end": {"effective_batch_size": 11},
    "rsLoRA": {"method": "rslora"},
    "DoRA": {"method": "dora"},
    "PiSSA": {"method": "pissa"},
    "OLoRA": {"method": "olora"},
    "a rate for B, an automatic rank": {"b_rate_ratio": 4.0, "rank": "auto"},
}


def test_every_process_is_told_which_state_was_kept(pair: Several, tmp_path: Path) -> None:
    """Only the first looks at validation; nothing is better than the start here."""
    settings = {**SMALL, "validate_every": 2}
    first, second = pair.do("train", folder=str(tmp_path / "two"), settings=settings, looks=True)
    assert first["kept_step"] == second["kept_step"] == 0
    assert first["looks"] == second["looks"]
    assert [value for _, value in first["looks"]] == [0.5] * (1 + -(-len(first["losses"]) // 2))


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_like_one_with_the_same_effective_batch(
    pair: Several, llama: Any, rows: Any, tmp_path: Path, case: str
) -> None:
    settings = {**SMALL, **CASES[case]}
    alone = train(llama(), rows(12), TuneSettings(**settings), tmp_path / "one")
    first, second = pair.do("train", folder=str(tmp_path / "two"), settings=settings)
    assert first["how"] == alone.how
    assert first["losses"] == second["losses"] == pytest.approx(alone.losses, rel=1e-6)
    assert first["vector"] == second["vector"]
    assert first["digest"] == second["digest"]
    wanted = plan([len(row.token_ids) for row in rows(12)], TuneSettings(**settings), seed=0)
    assert [sorted(a + b) for a, b in zip(first["rows"], second["rows"], strict=True)] == [
        sorted(one) for one in wanted
    ]
    assert all(abs(len(a) - len(b)) <= 1 + len(a + b) // 4 for a, b in zip(first["rows"], second["rows"], strict=True))
    one, two = updates(tmp_path / "one"), updates(tmp_path / "two")
    assert max(float(update.abs().max()) for update in one.values()) > 1e-3
    for name, update in one.items():
        torch.testing.assert_close(two[name], update, rtol=1e-3, atol=1e-5)


def test_chance_is_each_processs_own_and_the_same_every_time(pair: Several, tmp_path: Path) -> None:
    settings = {**SMALL, "dropout": 0.2, "neftune_alpha": 5.0}
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        first, second = pair.do("train", folder=str(tmp_path / folder), settings=settings, seed=seed)
        assert first["vector"] == second["vector"]
    a, b, c = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_in_bfloat16_the_adapters_are_the_same_everywhere(pair: Several, tmp_path: Path) -> None:
    words = {"folder": str(tmp_path), "settings": SMALL, "dtypes": ["bfloat16", "bfloat16"]}
    first, second = pair.do("train", **words)
    assert first["vector"] == second["vector"]
    assert first["losses"][-1] < first["losses"][0]


@pytest.mark.parametrize("place", ["on_step", "checkpoint", "sum"])
def test_killed_and_resumed_both_end_with_an_uninterrupted_trainings_bytes(
    pair: Several, tmp_path: Path, place: str
) -> None:
    """Process 0 dies after a checkpoint, while it writes the next one, or while gradients are added up."""
    settings = {**SMALL, "dropout": 0.2}
    pair.do("train", folder=str(tmp_path / "whole"), settings=settings)
    step = {"on_step": 3, "checkpoint": 2, "sum": 3}[place]
    planned = {"rank": 0, "place": place, "step": step, "error": "kill"}
    with several() as doomed:
        died, left = doomed.do("train", folder=str(tmp_path / "killed"), settings=settings, planned=planned)
    assert died == {}
    assert left["error"] == "LostContactError"
    assert "rank 1 of 2 lost the contact" in left["said"]
    assert left["seconds"] < SECONDS
    assert (tmp_path / "killed" / "checkpoint").exists()
    assert not (tmp_path / "killed" / "training.json").exists()
    first, second = pair.do("train", folder=str(tmp_path / "killed"), settings=settings)
    assert first["vector"] == second["vector"]
    names = ("adapter_model.safetensors", "adapter_config.json", "training.json")
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_one_process_goes_on_from_the_checkpoint_of_two(pair: Several, llama: Any, rows: Any, tmp_path: Path) -> None:
    alone = train(llama(), rows(12), TuneSettings(**SMALL), tmp_path / "one")
    planned = {"rank": 0, "place": "on_step", "step": 3, "error": "Planned"}
    pair.do("train", folder=str(tmp_path / "two"), settings=SMALL, planned=planned)
    steps: list[int] = []
    settings, folder = TuneSettings(**SMALL), tmp_path / "two"
    resumed = train(llama(), rows(12), settings, folder, on_step=lambda report: steps.append(report.step))
    assert steps == [3, 4, 5, 6]
    assert resumed.losses == pytest.approx(alone.losses, rel=1e-6)


def test_a_killed_helper_ends_process_0_with_what_to_do(tmp_path: Path) -> None:
    planned = {"rank": 1, "place": "pass", "step": 2, "error": "kill"}
    with several() as doomed:
        left, died = doomed.do("train", folder=str(tmp_path), settings=SMALL, planned=planned)
    assert died == {}
    assert left["error"] == "LostContactError"
    assert "run the same command again" in left["said"]
    assert left["seconds"] < SECONDS


FAILURES = [
    (1, "pass", "ModelError", "ElsewhereError", "rank 1 of 2: as planned"),
    (1, "pass", "Planned", "DefectElsewhereError", "rank 1 of 2: Planned: as planned"),
    (1, "pass", "OutOfMemoryError", "DefectElsewhereError", "rank 1 of 2: OutOfMemoryError: as planned"),
    (0, "pass", "Planned", "DefectElsewhereError", "rank 0 of 2: Planned: as planned"),
    (0, "on_step", "KeyboardInterrupt", "ElsewhereError", "rank 0 of 2: interrupted"),
    (0, "checkpoint", "OSError", "DefectElsewhereError", "rank 0 of 2: OSError: as planned"),
]


@pytest.mark.parametrize(("rank", "place", "error", "elsewhere", "said"), FAILURES, ids=lambda given: str(given)[:24])
def test_what_fails_in_one_process_ends_the_training_in_both(
    pair: Several, tmp_path: Path, rank: int, place: str, error: str, elsewhere: str, said: str
) -> None:
    planned = {"rank": rank, "place": place, "step": 2, "error": error}
    answers = pair.do("train", folder=str(tmp_path), settings=SMALL, planned=planned)
    failing, other = answers[rank], answers[1 - rank]
    assert failing["error"] == error
    assert (other["error"], other["said"]) == (elsewhere, said)
    assert max(one["seconds"] for one in answers) < SECONDS
    assert not (tmp_path / "training.json").exists()
    first, second = pair.do("train", folder=str(tmp_path), settings=SMALL)  # they can still talk to each other
    assert first["vector"] == second["vector"] is not None


def test_what_is_no_number_in_one_process_is_told_by_both(pair: Several, tmp_path: Path) -> None:
    answers = pair.do("train", folder=str(tmp_path), settings={**SMALL, "learning_rate": 1e38})
    for answer in answers:
        assert answer["error"] == "ModelError"
        assert "learning_rate" in answer["said"]
    assert answers[0]["said"] == answers[1]["said"]


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "weights": ({"changed": [1]}, r"rank 0 has weights (\w{12}) in float32.*rank 1 has weights (?!\1)\w{12} in"),
    "dtype": ({"dtypes": ["float32", "bfloat16"]}, r"rank 0 has .* in float32.*rank 1 has .* in bfloat16"),
    "sequences": (
        {"data": [0, 1]},
        r"sequences, .* differ .*rank 0 has weights (\w{12}) in float32.*rank 1 has weights \1 in float32",
    ),
    "a step": (
        {"planned": {"rank": 1, "place": "adamw", "step": 1, "error": "drift"}},
        r"the trained weights .* differ between the processes: rank 0 has (\w{12}); rank 1 has (?!\1)\w{12}",
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_processes_that_differ_do_not_train_together(pair: Several, tmp_path: Path, what: str) -> None:
    words, said = DIFFERENT[what]
    for answer in pair.do("train", folder=str(tmp_path), settings=SMALL, **words):
        assert answer["error"] == "ModelError"
        assert re.search(said, answer["said"]), answer["said"]
        assert len(answer.get("rows", [])) == (what == "a step")  # at once, not after the last step


def test_three_processes_take_shares_of_steps_of_two(llama: Any, rows: Any, tmp_path: Path) -> None:
    settings = {**SMALL, "effective_batch_size": 2}
    alone = train(llama(), rows(12), TuneSettings(**settings), tmp_path / "one")
    with several(3) as three:
        answers = three.do("train", folder=str(tmp_path / "three"), settings=settings)
    for answer in answers:
        assert answer["losses"] == pytest.approx(alone.losses, rel=1e-6)
        assert answer["vector"] == answers[0]["vector"]
    assert [[len(rows) for rows in answer["rows"]] for answer in answers] == [[1] * 12, [1] * 12, [0] * 12]
