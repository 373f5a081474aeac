"""MLflow: against a server in memory, and with the library itself where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow_server import MlflowException, Server

from toolkit.errors import RunError
from toolkit.tracking import MLflow, Result, TrackedRun, mlflow_metrics
from toolkit.tracking.mlflow import UNKNOWN

LORA = TrackedRun("lora", 0, {"tune.rank": 16, "model": "smol"}, "handbook")
ZERO = TrackedRun("zero_shot", None, {"model": "smol"}, "handbook")


@pytest.fixture(autouse=True)
def no_experiment_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setitem(sys.modules, "mlflow", server.library)
    return server


def said(tracker: MLflow, losses: dict[int, float]) -> None:
    for step, loss in losses.items():
        tracker.log(step, {"train/loss": loss, "train/seconds": 0.1 * len(losses)})


def losses_of(run: Any) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in run.metrics if metric.key == "train/loss"]


def test_a_missing_library_is_told_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RunError, match=r'pip install "adaptation-toolkit\[mlflow\]"'):
        MLflow()


def test_each_strategy_and_seed_is_a_run_below_the_recipe_s(server: Server) -> None:
    tracker = MLflow()
    tracker.start(ZERO)
    tracker.start(LORA)
    assert server.named("zero_shot/seed-none").status == "FINISHED"
    assert server.named("lora/seed-0").status == server.named("handbook").status == "RUNNING"
    said(tracker, {1: 2.5, 2: 2.0})
    tracker.finish({"lora/seed-0": Result({"test/token_f1": 0.15}, {"verdict against zero_shot": "BETTER"})})
    lora, above = server.named("lora/seed-0"), server.named("handbook")
    assert len(server.runs) == 3
    assert lora.tags == {"mlflow.parentRunId": above.info.run_id, "verdict against zero_shot": "BETTER"}
    assert lora.params == {"tune.rank": "16", "model": "smol"}
    assert losses_of(lora) == [(1, 2.5), (2, 2.0)]
    assert [(m.key, m.value) for m in lora.metrics if m.key.startswith("test/")] == [("test/token_f1", 0.15)]
    assert [run.status for run in server.runs.values()] == ["FINISHED"] * 3
    assert server.named("zero_shot/seed-none").metrics == []


def test_a_run_that_was_stopped_is_failed_and_keeps_its_figures(server: Server) -> None:
    tracker = MLflow()
    tracker.start(LORA)
    said(tracker, {1: 2.5})
    tracker.finish(None)
    assert losses_of(server.named("lora/seed-0")) == [(1, 2.5)]
    assert {run.status for run in server.runs.values()} == {"FAILED"}


def test_what_was_killed_goes_on_in_the_same_runs_and_says_no_step_twice(server: Server, tmp_path: Path) -> None:
    kept = tmp_path / "mlflow.json"
    first = MLflow(kept)
    first.start(LORA)
    said(first, {1: 4.0, 2: 3.0, 3: 2.5})
    first.finish(None)
    second = MLflow(kept)
    second.start(LORA)
    assert server.named("lora/seed-0").status == server.named("handbook").status == "RUNNING"
    said(second, {2: 3.0, 3: 2.5, 4: 2.0, 5: 1.5})
    second.finish({})
    assert losses_of(server.named("lora/seed-0")) == [(1, 4.0), (2, 3.0), (3, 2.5), (4, 2.0), (5, 1.5)]
    assert len(server.runs) == 2


def test_a_step_that_came_out_differently_is_said_again(server: Server, tmp_path: Path) -> None:
    for losses in ({1: 4.0, 2: 3.0}, {1: 4.0, 2: 2.9}):
        tracker = MLflow(tmp_path / "mlflow.json")
        tracker.start(LORA)
        said(tracker, losses)
        tracker.finish({})
    assert losses_of(server.named("lora/seed-0")) == [(1, 4.0), (2, 3.0), (2, 2.9)]


@pytest.mark.parametrize("how", ["another server", "removed"])
def test_where_the_runs_of_before_are_gone_new_ones_are_made(server: Server, tmp_path: Path, how: str) -> None:
    first = MLflow(tmp_path / "mlflow.json")
    first.start(LORA)
    first.finish({})
    before = set(server.runs)
    if how == "removed":
        for run in server.runs.values():
            run.info.lifecycle_stage = "deleted"
    else:
        server.runs = {f"other-{name}": run for name, run in server.runs.items()}
    second = MLflow(tmp_path / "mlflow.json")
    second.start(LORA)
    said(second, {1: 4.0})
    new = [run for name, run in server.runs.items() if name not in before and not name.startswith("other")]
    assert sorted(run.name for run in new) == ["handbook", "lora/seed-0"]
    assert new[1].params == {"tune.rank": "16", "model": "smol"}


def test_a_server_that_does_not_answer_is_not_taken_for_one_without_the_runs(server: Server, tmp_path: Path) -> None:
    first = MLflow(tmp_path / "mlflow.json")
    first.start(LORA)
    first.finish({})
    server.unreachable = MlflowException("no route")
    server.unreachable.error_code = "INTERNAL_ERROR"
    with pytest.raises(MlflowException, match="no route"):
        MLflow(tmp_path / "mlflow.json").start(LORA)
    assert len(server.runs) == 2


def test_a_second_training_by_hand_is_another_run(server: Server) -> None:
    tracker = MLflow()
    for loss in (2.0, 1.0):
        tracker.start(TrackedRun("training"))
        said(tracker, {1: loss})
        tracker.finish({})
    assert [losses_of(run) for run in server.runs.values()] == [[(1, 2.0)], [(1, 1.0)]]
    assert all(run.tags == {} for run in server.runs.values())


def test_figures_are_sent_together_and_before_long(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(mlflow_metrics, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0]))
    tracker = MLflow()
    tracker.start(LORA)
    said(tracker, {1: 4.0, 2: 3.0})
    assert server.batches == 0
    now[0] += mlflow_metrics.SEND_SECONDS
    said(tracker, {3: 2.0})
    assert server.arrived.wait(10)
    assert server.batches == 1
    assert len(losses_of(server.named("lora/seed-0"))) == 3
    said(tracker, dict.fromkeys(range(4, 4 + mlflow_metrics.MOST_METRICS), 1.0))
    tracker.finish({})
    assert len(losses_of(server.named("lora/seed-0"))) == 3 + mlflow_metrics.MOST_METRICS
    assert server.batches == 3


def test_a_slow_server_does_not_hold_up_a_training(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_metrics, "SEND_SECONDS", 0.0)
    tracker = MLflow()
    tracker.start(LORA)
    server.answers.clear()
    said(tracker, {1: 4.0, 2: 3.0, 3: 2.0})  # a tracker that waited would never come back
    assert server.named("lora/seed-0").metrics == []
    server.answers.set()
    tracker.finish({})
    assert losses_of(server.named("lora/seed-0")) == [(1, 4.0), (2, 3.0), (3, 2.0)]


def test_what_a_request_met_is_raised_in_the_end(server: Server) -> None:
    tracker = MLflow()
    tracker.start(LORA)
    said(tracker, {1: 4.0})
    server.unreachable = MlflowException("no route")
    with pytest.raises(MlflowException, match="no route"):
        tracker.finish({})


def test_more_settings_than_one_request_holds_all_arrive(server: Server) -> None:
    tracker = MLflow()
    tracker.start(TrackedRun("lora", 0, {f"mine.setting{n}": n for n in range(250)}))
    assert len(server.named("lora/seed-0").params) == 250


def test_names_that_mlflow_does_not_take_are_put_right(server: Server) -> None:
    tracker = MLflow()
    tracker.start(TrackedRun("lora", 0, {"mine.a+b": 1}))
    tracker.log(1, {"validation/f1@3": 0.5})
    tracker.finish({})
    lora = server.named("lora/seed-0")
    assert list(lora.params) == ["mine.a_b"]
    assert [metric.key for metric in lora.metrics] == ["validation/f1_3"]


@pytest.mark.parametrize(
    ("variables", "experiments"),
    [
        ({}, ["0", "0"]),
        ({"MLFLOW_EXPERIMENT_NAME": "ours"}, ["experiment-0", "experiment-0"]),
        ({"MLFLOW_EXPERIMENT_ID": "7", "MLFLOW_EXPERIMENT_NAME": "ours"}, ["7", "7"]),
    ],
)
def test_the_experiment_is_the_user_s(
    server: Server, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], experiments: list[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    MLflow().start(LORA)
    assert [run.experiment for run in server.runs.values()] == experiments


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Of the library itself, over a data base in this test's folder."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    library = pytest.importorskip("mlflow", reason='MLflow is not installed: pip install ".[mlflow]"')
    return library.MlflowClient()


def test_the_library_itself_keeps_settings_figures_verdicts_and_the_nesting(client: Any, tmp_path: Path) -> None:
    for losses, results in (
        ({1: 4.0, 2: 3.0, 3: 2.5}, None),
        ({3: 2.5, 4: 1 / 3}, {"lora/seed-0": Result({"test/token_f1": 0.15}, {"verdict against zero_shot": "BETTER"})}),
    ):
        tracker = MLflow(tmp_path / "mlflow.json")
        tracker.start(LORA)
        said(tracker, losses)
        tracker.finish(results)
    runs = {run.info.run_name: run for run in client.search_runs(["0"])}
    assert set(runs) == {"handbook", "lora/seed-0"}
    lora = runs["lora/seed-0"]
    assert lora.data.tags["mlflow.parentRunId"] == runs["handbook"].info.run_id
    assert lora.data.tags["verdict against zero_shot"] == "BETTER"
    assert lora.data.params == {"tune.rank": "16", "model": "smol"}
    with pytest.raises(Exception, match="not found") as unknown:
        client.get_run("0" * 32)
    assert unknown.value.error_code in UNKNOWN  # type: ignore[attr-defined]
    history = client.get_metric_history(lora.info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 4.0), (2, 3.0), (3, 2.5), (4, 1 / 3)]
    assert lora.data.metrics["test/token_f1"] == 0.15
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
