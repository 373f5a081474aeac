"""MLflow: settings as parameters, figures as metrics, results as tags, on the user's own tracking server."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.store import write_atomically
from toolkit.tracking.mlflow_metrics import Metrics, named
from toolkit.tracking.tracker import Result, TrackedRun

MOST_PARAMETERS = 100
"""In one request."""

UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What a server says of a run's id that it does not have: it is another server, or the run was removed for good."""

DEFAULT_EXPERIMENT = "0"
"""MLflow's own, where the user names none."""


class MLflow:
    """A tracker with one MLflow run for each strategy and seed, below one for the recipe.

    Server and experiment are those of MLflow's variables (`MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`, ...).

    Args:
        kept: a file for the ids of the MLflow runs: what was killed and goes on does so in the same ones.

    Raises:
        RunError: MLflow is not installed.
    """

    def __init__(self, kept: Path | None = None) -> None:
        self._mlflow = _library()
        self._kept = kept
        self._client: Any = None
        self._ids: dict[str, str] = {}
        self._group = ""
        self._active: Metrics | None = None

    def start(self, run: TrackedRun) -> None:
        if self._client is None:
            self._client = self._mlflow.MlflowClient()
            self._ids = _read_ids(self._kept)
        self._end_active("FINISHED")
        tags = {}
        if run.group:
            self._group = f"recipe {run.group}"
            tags = {"mlflow.parentRunId": self._opened(self._group, run.group, {}, {})[0]}
        self._active = Metrics(self._mlflow, self._client, *self._opened(run.name, run.name, tags, run.settings))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._active is not None:
            self._active.log(step, values)

    def finish(self, results: Mapping[str, Result] | None) -> None:
        status = "FAILED" if results is None else "FINISHED"
        self._end_active(status)
        for name, result in (results or {}).items():
            if name in self._ids:
                tags = [self._mlflow.entities.RunTag(named(key), value) for key, value in result.tags.items()]
                self._client.log_batch(self._ids[name], tags=tags)
                scores = Metrics(self._mlflow, self._client, self._ids[name], True)
                scores.log(0, result.values)
                scores.close()
        if self._group:
            self._client.set_terminated(self._ids[self._group], status)
        self._group = ""
        if self._kept is None:
            self._ids = {}  # what is started next is another training

    def _end_active(self, status: str) -> None:
        if self._active is not None:
            active, self._active = self._active, None
            active.close()
            self._client.set_terminated(active.run_id, status)

    def _opened(self, key: str, name: str, tags: Mapping[str, str], settings: Mapping[str, object]) -> tuple[str, bool]:
        """The MLflow run that stands for `key`, and whether it was there before; if this server has none, a new one."""
        known = self._ids.get(key)
        if known is not None and self._goes_on(known):
            return known, True
        made: str = self._client.create_run(_experiment(self._client), run_name=name, tags=dict(tags)).info.run_id
        self._ids[key] = made
        if self._kept is not None:
            write_atomically(self._kept, (json.dumps(self._ids, indent=1) + "\n").encode())
        parameters = [self._mlflow.entities.Param(named(key), str(value)) for key, value in settings.items()]
        for first in range(0, len(parameters), MOST_PARAMETERS):
            self._client.log_batch(made, params=parameters[first : first + MOST_PARAMETERS])
        return made, False

    def _goes_on(self, known: str) -> bool:
        try:
            found = self._client.get_run(known)
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code not in UNKNOWN:
                raise
            return False
        if found.info.lifecycle_stage != "active":
            return False
        self._client.update_run(known, status="RUNNING")
        return True


def _library() -> Any:
    # A folder named `mlflow` on the path imports as an empty namespace where the library is missing.
    try:
        library = importlib.import_module("mlflow")
        _ = library.MlflowClient
    except (ImportError, AttributeError):
        raise RunError(
            "the tracker `mlflow` needs the library of that name, which is not installed: "
            'pip install "adaptation-toolkit[mlflow]"'
        ) from None
    return library


def _experiment(client: Any) -> str:
    """The id of the user's experiment, made if it is not there."""
    if known := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return known
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if not name:
        return DEFAULT_EXPERIMENT
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def _read_ids(path: Path | None) -> dict[str, str]:
    if path is None or not path.is_file():
        return {}
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found
