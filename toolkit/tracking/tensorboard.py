"""TensorBoard: figures as scalars in event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.tracking.tracker import Result, TrackedRun
from toolkit.tracking.values import is_look

FLUSH_SECONDS = 5
"""What TensorBoard shows of a training under way, and what a kill loses of the picture, is this old."""


class TensorBoard:
    """A tracker that writes event files into `folder/<strategy>/seed-<n>`; look at them with `tensorboard --logdir`.

    Raises:
        RunError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path | str = "tensorboard") -> None:
        self._writer_class = _writer_class()
        self._folder = Path(folder)
        self._run = TrackedRun("training")
        self._writer: Any = None
        self._last = 0

    def start(self, run: TrackedRun) -> None:
        self._close()
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step < self._last:
            self._close()
        if self._writer is None:  # only now: a strategy without a training leaves no file, and `purge_step` is known
            place = str(self._folder / self._run.name)
            first = step + is_look(values)
            self._writer = self._writer_class(place, purge_step=first, flush_secs=FLUSH_SECONDS)
        self._last = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, results: Mapping[str, Result] | None) -> None:
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._last = None, 0


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RunError(
            "the tracker `tensorboard` needs the library of that name, which is not installed: "
            'pip install "adaptation-toolkit[tensorboard]"'
        ) from None
    return SummaryWriter
