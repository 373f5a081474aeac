"""Process 0 leads, the others wait, take part in each of its trainings, and leave when it is done, however it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from several_processes import several

from toolkit.errors import DataError, ModelError
from toolkit.models import load_pretrained
from toolkit.strategies.tune import TuneAdapter
from toolkit.tuning import TuneSettings, train, write_sequences
from toolkit.tuning.parallel.helpers import ask, heard, helpers, waiting
from toolkit.tuning.parallel.processes import ALONE, Processes

SMALL = {"rank": 4, "epochs": 2, "effective_batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 2}
SECONDS = 30.0


@pytest.fixture(scope="module")
def models(make_module: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models in folders, as a recipe may name them."""
    found = {}
    for name, layers in (("small", 1), ("large", 2)):
        found[name] = tmp_path_factory.mktemp("models") / name
        make_module("llama", fresh=True, num_hidden_layers=layers).save_pretrained(found[name])
        tokenizer.save_pretrained(found[name])
    return found


def job(base: Path, folder: Path, **words: Any) -> dict[str, Any]:
    return {"base": str(base), "folder": str(folder), **words, "settings": {**SMALL, **words.get("settings", {})}}


def lead(*jobs: dict[str, Any], ends_with: str | None = None) -> dict[str, Any]:
    return {"do": "lead", "jobs": list(jobs), "ends_with": ends_with}


def test_helpers_take_part_in_trainings_of_every_model_and_leave(
    models: dict[str, Path], rows: Any, tmp_path: Path
) -> None:
    jobs = [
        job(models["small"], tmp_path / "first"),
        job(models["large"], tmp_path / "second", settings={"method": "dora"}, seed=3),
        job(models["small"], tmp_path / "third", settings={"target_modules": ["no_such_layer"]}),
        job(models["small"], tmp_path / "fourth", data=[1]),
    ]
    with several() as pair:
        leader, helper = pair.each(lead(*jobs), {"do": "serve"})
    assert helper["code"] == 0
    assert helper["vector"] == leader["vector"]
    assert "no_such_layer" in leader["jobs"][2]["said"]
    steps = len(leader["rows"])
    assert steps == len(helper["rows"]) == 3 * 6
    assert all(helper["rows"])
    for place, found, words in zip("abcd", leader["jobs"], jobs, strict=True):
        if "losses" not in found:
            continue
        module = load_pretrained(Path(words["base"]), "float32", "cpu").module
        settings, seed = TuneSettings(**words["settings"]), words.get("seed", 0)
        alone = train(module, rows(12, *words.get("data", [])), settings, tmp_path / place, seed)
        assert found["losses"] == pytest.approx(alone.losses, rel=1e-6)


def test_sequences_on_disk_are_read_there_by_helpers_too(
    models: dict[str, Path], tmp_path: Path, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [
        job(models["small"], tmp_path / "listed"),
        job(models["small"], tmp_path / "read", on_disk=str(tmp_path / "sequences")),
    ]
    with several() as pair:
        leader, _ = pair.each(lead(*jobs), {"do": "serve"})
    listed, read = leader["jobs"]
    assert read == listed
    told: list[str] = []
    monkeypatch.setattr(Processes, "from_main", lambda _, text: told.append(text), raising=False)
    items = write_sequences(tmp_path / "many", rows(500))
    with helpers(Processes()) as _:
        module = load_pretrained(models["small"], "float32", "cpu").module
        ask(waiting(), module, items, TuneSettings(), 0)
    assert len(told[0]) < 4000
    heard_items = heard(json.loads(told[0])["items"])
    assert list(heard_items) == rows(500)
    with pytest.raises(DataError, match="holds no sequences"):
        heard(str(tmp_path / "elsewhere"))


def test_helpers_load_a_base_in_4_bits_as_process_0_has_it(models: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="weights in 4 bits need the extra `qlora` (bitsandbytes)")
    with several() as pair:
        leader, helper = pair.each(lead(job(models["small"], tmp_path, dtype="nf4")), {"do": "serve"})
    assert "losses" in leader["jobs"][0], leader
    assert helper["code"] == 0
    assert helper["vector"] == leader["vector"]


@pytest.mark.parametrize("way", ["SystemExit", "KeyboardInterrupt"])
def test_helpers_leave_however_the_leader_ends(models: dict[str, Path], tmp_path: Path, way: str) -> None:
    with several() as pair:
        leader, helper = pair.each(lead(job(models["small"], tmp_path), ends_with=way), {"do": "serve"})
    assert leader["ended"] == way
    assert "losses" in leader["jobs"][0]
    assert helper["code"] == 0
    assert helper["seconds"] < SECONDS


def test_an_interruption_in_a_training_ends_it_and_helpers_wait_for_the_next(
    models: dict[str, Path], tmp_path: Path
) -> None:
    planned = {"rank": 0, "place": "on_step", "step": 3, "error": "KeyboardInterrupt"}
    jobs = [job(models["small"], tmp_path, planned=planned), job(models["small"], tmp_path)]
    with several() as pair:
        leader, helper = pair.each(lead(*jobs), {"do": "serve"})
    interrupted, whole = leader["jobs"]
    assert interrupted["error"] == "KeyboardInterrupt"
    assert len(whole["losses"]) == 6
    assert helper["code"] == 0
    assert helper["vector"] == leader["vector"]
    resumed = 6 - 2
    assert len(leader["rows"]) == 3 + resumed
    assert len(helper["rows"]) == 4 + resumed  # it was computing the next step


@pytest.mark.parametrize(
    ("error", "elsewhere", "said"),
    [
        ("ModelError", "ElsewhereError", "rank 1 of 2: as planned"),
        ("Planned", "DefectElsewhereError", "rank 1 of 2: Planned: as planned"),
    ],
)
def test_what_a_helper_cannot_load_is_told_by_the_leader(
    models: dict[str, Path], tmp_path: Path, error: str, elsewhere: str, said: str
) -> None:
    jobs = [job(models["large"], tmp_path), job(models["small"], tmp_path)]
    with several() as pair:
        leader, helper = pair.each(lead(*jobs), {"do": "serve", "planned": {"folder": "large", "error": error}})
    assert (leader["jobs"][0]["error"], leader["jobs"][0]["said"]) == (elsewhere, said)
    assert len(leader["jobs"][1]["losses"]) == 6
    assert helper["code"] == 0


def test_a_helper_whose_weights_have_another_dtype_does_not_take_part(models: dict[str, Path], tmp_path: Path) -> None:
    planned = {"folder": "none", "dtype": "bfloat16"}
    with several() as pair:
        leader, helper = pair.each(lead(job(models["small"], tmp_path)), {"do": "serve", "planned": planned})
    (refused,) = leader["jobs"]
    assert refused["error"] == "ModelError"
    assert "in float32" in refused["said"]
    assert "in bfloat16" in refused["said"]
    assert helper["code"] == 0


def test_a_helper_ends_when_the_leader_is_killed(models: dict[str, Path], tmp_path: Path) -> None:
    planned = {"rank": 0, "place": "on_step", "step": 2, "error": "kill"}
    with several() as pair:
        leader, helper = pair.each(lead(job(models["small"], tmp_path, planned=planned)), {"do": "serve"})
    assert leader == {}
    assert helper["code"] == 1
    assert helper["seconds"] < SECONDS


class Recorded(Processes):
    """Two processes, of which the other one is only told."""

    count = 2

    def __init__(self) -> None:
        self.told: list[str | None] = []
        self.closed = False

    def from_main(self, text: str | None) -> str:
        self.told.append(text)
        return text or ""

    def close(self) -> None:
        self.closed = True


def test_a_run_trains_again_where_the_number_of_processes_is_another() -> None:
    settings = TuneAdapter()
    assert settings.content() == {}
    with helpers(Recorded()):
        assert settings.content() == {"processes": 2}


def test_a_model_without_a_folder_cannot_be_told_to_helpers(llama: Any, rows: Any) -> None:
    processes = Recorded()
    with helpers(processes), pytest.raises(ModelError, match="2 processes cannot train a model that was not loaded"):
        ask(waiting(), llama(), rows(2), TuneSettings(), 0)
    assert processes.told == [""]
    assert processes.closed


def test_helpers_wait_only_within_the_block(llama: Any, rows: Any) -> None:
    with helpers(ALONE):
        assert waiting() is ALONE
    processes = Recorded()
    with helpers(processes):
        assert waiting() is processes
    assert waiting() is ALONE
    assert processes.told == [""]
    ask(processes, llama(), rows(2), TuneSettings(), 0)  # those who make the call themselves are told nothing
    assert processes.told == [""]
