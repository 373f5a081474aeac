"""A run feeds its trackers, and what they do or fail to do changes nothing else of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import Server
from recording_tracker import Broken, Recorder

from toolkit.errors import RunError
from toolkit.json_lines import read_lines
from toolkit.recipe import load_recipe
from toolkit.runs.tracked import described, results_of
from toolkit.tracking import Result, read_training

Start = Callable[..., Any]
TUNE = {"rank": 2, "epochs": 1, "effective_batch_size": 8, "checkpoint_every": 2, "target_modules": ["q_proj"]}
STRATEGIES = {"zero_shot": [], "lora": [{"tune": TUNE}]}


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is slow and changes nothing else."""
    monkeypatch.setattr("toolkit.report.write_report", lambda root: (root / "report.html").write_text("drawn"))


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal."""


def killed_at(step: int) -> Any:
    def listen(name: str, fields: Mapping[str, Any]) -> None:
        if name == "train" and fields["step"] == step:
            raise Killed

    return listen


def test_every_run_leaves_its_trainings_as_json_lines(start: Start, tmp_path: Path) -> None:
    start(STRATEGIES)
    (name,) = found = read_training(tmp_path / "run" / "training.jsonl")
    events = [line for line in read_lines(tmp_path / "run" / "events.jsonl") if line["event"] == "train"]
    assert name == "lora/seed-0"
    assert {step: values["train/loss"] for step, values in found[name].items()} == {
        line["step"]: line["loss"] for line in events
    }
    assert len(events) == 4


def test_after_a_kill_every_step_is_read_once_and_as_if_nothing_had_happened(start: Start, tmp_path: Path) -> None:
    start(STRATEGIES, out="whole", store="own")
    with pytest.raises(Killed):
        start(STRATEGIES, listener=killed_at(2))
    with pytest.raises(Killed):
        start(STRATEGIES, listener=killed_at(3))  # its step 3 comes again below: the checkpoint is of step 2
    start(STRATEGIES)
    path = tmp_path / "run" / "training.jsonl"
    assert [line["step"] for line in read_lines(path) if "train/loss" in line].count(3) == 2
    losses = [
        {step: values["train/loss"] for step, values in read_training(place)["lora/seed-0"].items()}
        for place in (path, tmp_path / "whole" / "training.jsonl")
    ]
    assert losses[0] == losses[1]


def test_trackers_leave_outputs_and_systems_as_they_are(start: Start, artefacts: Any, tmp_path: Path) -> None:
    start(STRATEGIES, out="plain", store="own")
    start(STRATEGIES, out="tracked", store="other", trackers=[Recorder()])
    assert artefacts(tmp_path / "tracked") == artefacts(tmp_path / "plain")


def test_a_tracker_is_told_of_every_strategy_its_steps_and_in_the_end_its_result(start: Start) -> None:
    recorder = Recorder()
    comparison = start(STRATEGIES, trackers=[recorder], seeds=[0, 1]).comparison
    assert [run.name for run in recorder.runs] == ["zero_shot/seed-none", "lora/seed-0", "lora/seed-1"]
    assert {run.group for run in recorder.runs} == {"recipe"}
    assert {name: [step for step, _ in steps] for name, steps in recorder.logged.items()} == {
        "lora/seed-0": [1, 1, 2, 3, 4],  # the forecast, then the steps
        "lora/seed-1": [1, 1, 2, 3, 4],
    }
    assert set(recorder.results) == {run.name for run in recorder.runs}
    (contrast,) = comparison["contrasts"]
    assert recorder.results["lora/seed-1"].tags == {"verdict against zero_shot": contrast["verdict"]}


def test_a_run_that_is_killed_is_finished_without_results(start: Start) -> None:
    recorder = Recorder()
    with pytest.raises(Killed):
        start(STRATEGIES, trackers=[recorder], listener=killed_at(2))
    assert recorder.results is None
    assert [step for step, _ in recorder.logged["lora/seed-0"]] == [1, 1, 2]


def test_a_tracker_that_fails_is_noticed_once_and_the_run_ends_as_without_it(
    start: Start, artefacts: Any, tmp_path: Path
) -> None:
    start(STRATEGIES, out="plain", store="own")
    start(STRATEGIES, trackers=[Broken(ConnectionError("no route"), 3)])
    notices = [line for line in read_lines(tmp_path / "run" / "events.jsonl") if line["event"] == "notice"]
    (said,) = [line["text"] for line in notices if "tracker" in line["text"]]
    assert "Broken failed at step 1" in said
    assert artefacts(tmp_path / "run") == artefacts(tmp_path / "plain")
    assert len(read_training(tmp_path / "run" / "training.jsonl")["lora/seed-0"]) == 4


def test_an_unknown_tracker_is_told_before_anything_is_written(start: Start, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"unknown tracker 'tensorbord' \(did you mean 'tensorboard'\?\)"):
        start(STRATEGIES, trackers=["tensorbord"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow")])
def test_a_tracker_that_is_not_installed_is_told_before_anything_is_computed(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RunError, match=rf"adaptation-toolkit\[{name}\]"):
        start(STRATEGIES, trackers=[name])
    assert not (tmp_path / "run").exists()


def test_mlflow_by_name_goes_on_in_the_same_runs_after_a_kill_and_anew_when_fresh(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    monkeypatch.setitem(sys.modules, "mlflow", server.library)
    with pytest.raises(Killed):
        start(STRATEGIES, trackers=["mlflow"], listener=killed_at(3))
    start(STRATEGIES, trackers=["mlflow", "mlflow"])
    assert sorted(run.name for run in server.runs.values()) == ["lora/seed-0", "recipe", "zero_shot/seed-none"]
    steps = [metric.step for metric in server.named("lora/seed-0").metrics if metric.key == "train/loss"]
    assert steps == [1, 2, 3, 4]
    start(STRATEGIES, trackers=["mlflow"], fresh=True)
    assert len(server.runs) == 6


def test_fresh_forgets_what_was_tracked(start: Start, tmp_path: Path) -> None:
    start(STRATEGIES)
    start(STRATEGIES, fresh=True)
    lines = [line for line in read_lines(tmp_path / "run" / "training.jsonl") if "train/loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


def test_tensorboard_by_name_writes_below_the_run_folder(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason='TensorBoard is not installed: pip install ".[tensorboard]"')
    start(STRATEGIES, trackers=["tensorboard"])
    folder = tmp_path / "run" / "tensorboard"
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("seed-*")] == ["lora/seed-0"]
    assert any((folder / "lora" / "seed-0").iterdir())


def test_a_strategy_is_described_by_its_factors_and_every_setting(world: Any, tmp_path: Path) -> None:
    path = world.recipe(
        tmp_path / "recipe.yaml",
        {"zero_shot": [], "twice": [{"prompt": {"shots": 2}}, {"prompt": {"shots": 1}}, {"tune": TUNE}]},
    )
    recipe = load_recipe(path)
    found = described(recipe, "twice", 1)
    assert (found.name, found.group) == ("twice/seed-1", "recipe")
    assert found.settings["recipe_digest"] == recipe.digest
    assert found.settings["seed"] == 1
    assert (found.settings["1-prompt.shots"], found.settings["2-prompt.shots"]) == (2, 1)
    assert found.settings["tune.rank"] == 2
    assert json.loads(str(found.settings["tune.target_modules"])) == ["q_proj"]
    assert described(recipe, "zero_shot", None).settings.keys() & {"seed", "tune.rank"} == set()


def comparison(seeds: list[int | None]) -> dict[str, Any]:
    scores = {"f1": {"score": 0.15}, "exact": {"score": 0.1}}
    return {
        "metric": "f1",
        "strategies": {
            "zero_shot": {"seeds": [None], "metrics": scores},
            "lora": {"seeds": seeds, "metrics": scores},
        },
        "contrasts": [
            {"a": "lora", "b": "zero_shot", "metric": "f1", "verdict": "BETTER"},
            {"a": "lora", "b": "zero_shot", "metric": "exact", "verdict": "UNRESOLVED"},
            {"a": "lora", "b": "other", "metric": "f1", "verdict": None},
        ],
    }


def test_results_hold_the_verdict_of_each_contrast_and_the_scores() -> None:
    tags = {
        "verdict against zero_shot": "BETTER",
        "verdict against zero_shot on exact": "UNRESOLVED",
        "verdict against other": "refused",
    }
    assert results_of(comparison([0])) == {
        "zero_shot/seed-none": Result({"test/f1": 0.15, "test/exact": 0.1}, {}),
        "lora/seed-0": Result({"test/f1": 0.15, "test/exact": 0.1}, tags),
    }


def test_a_score_over_several_seeds_is_not_given_out_as_one_seed_s() -> None:
    found = results_of(comparison([0, 1]))
    assert found["lora/seed-0"].values == {"test_mean_over_seeds/f1": 0.15, "test_mean_over_seeds/exact": 0.1}
