"""Trackers: where the figures of a training go. JSON Lines, TensorBoard, MLflow, or anyone's own.

They are fed by a run's events (`listener.py`) or as the `on_step` of `train` (`callback.py`); no engine knows of them.
"""

from toolkit.tracking.callback import tracking
from toolkit.tracking.json_lines import JsonLines, read_training
from toolkit.tracking.mlflow import MLflow
from toolkit.tracking.tensorboard import TensorBoard
from toolkit.tracking.tracker import Result, TrackedRun, Tracker

__all__ = ["JsonLines", "MLflow", "Result", "TensorBoard", "TrackedRun", "Tracker", "read_training", "tracking"]
