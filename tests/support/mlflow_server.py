"""What `MLflow` uses of the library of that name, over runs in memory. `library` takes the place of the module."""

from __future__ import annotations

import threading
from collections import namedtuple
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

Metric = namedtuple("Metric", "key value timestamp step")
Param = namedtuple("Param", "key value")
RunTag = namedtuple("RunTag", "key value")


class MlflowException(Exception):
    """What the library raises."""

    error_code = "RESOURCE_DOES_NOT_EXIST"


class Server:
    """Runs by id, as a tracking server keeps them, and how often it was asked to write figures.

    While `answers` is not set, it does not; `unreachable` is raised in place of an answer.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}
        self.experiments: dict[str, str] = {}
        self.batches = 0
        self.unreachable: MlflowException | None = None
        self.answers, self.arrived = threading.Event(), threading.Event()
        self.answers.set()

    @property
    def library(self) -> Any:
        entities = SimpleNamespace(Metric=Metric, Param=Param, RunTag=RunTag)
        exceptions = SimpleNamespace(MlflowException=MlflowException)
        return SimpleNamespace(MlflowClient=lambda: self, entities=entities, exceptions=exceptions)

    def named(self, name: str) -> Any:
        """The one run of that name."""
        (found,) = [run for run in self.runs.values() if run.name == name]
        return found

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> Any:
        info = SimpleNamespace(run_id=f"id-{len(self.runs)}", lifecycle_stage="active")
        run = SimpleNamespace(info=info, name=run_name, experiment=experiment, status="RUNNING", tags=dict(tags))
        run.params, run.metrics = {}, []
        self.runs[info.run_id] = run
        return run

    def get_run(self, run_id: str) -> Any:
        if self.unreachable is not None:
            raise self.unreachable
        if run_id not in self.runs:
            raise MlflowException(f"Run with id={run_id} not found")
        return self.runs[run_id]

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[run_id].status = status

    set_terminated = update_run

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
    ) -> None:
        assert len(metrics) <= 1000
        assert len(params) <= 100
        self.answers.wait(30)
        if self.unreachable is not None:
            raise self.unreachable
        self.batches += bool(metrics)
        run = self.runs[run_id]
        run.metrics += metrics
        if metrics:
            self.arrived.set()
        run.params |= {param.key: param.value for param in params}
        run.tags |= {tag.key: tag.value for tag in tags}

    def get_metric_history(self, run_id: str, key: str) -> list[Metric]:
        return [metric for metric in self.runs[run_id].metrics if metric.key == key]

    def get_experiment_by_name(self, name: str) -> Any:
        known = self.experiments.get(name)
        return None if known is None else SimpleNamespace(experiment_id=known)

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = f"experiment-{len(self.experiments)}"
        return self.experiments[name]
