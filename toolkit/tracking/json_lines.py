"""JsonLines: figures as lines of a file, `{"strategy": "lora", "seed": 0, "step": 1, "train/loss": 2.1, ...}`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from toolkit.json_lines import append_line, read_lines
from toolkit.tracking.tracker import Result, TrackedRun
from toolkit.tracking.values import is_look

_PLACE = ("strategy", "seed", "step")


class JsonLines:
    """A tracker that appends a line for every call of `log`; `read_training` reads them.

    Nothing is ever taken out of the file: a training that went back to an earlier step says those steps again.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._run = TrackedRun("training")

    def start(self, run: TrackedRun) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        append_line(self._path, {"strategy": self._run.strategy, "seed": self._run.seed, "step": step, **values})

    def finish(self, results: Mapping[str, Result] | None) -> None:
        """Nothing is held back until here."""


def read_training(path: Path | str) -> dict[str, dict[int, dict[str, float]]]:
    """What a file of `JsonLines` says in the end: by the run's name (`lora/seed-0`) and step, the values by name.

    Where a training went back to a step (it was killed and went on from a checkpoint, or was done anew), what had
    been said from there on is left out; where it first went on with a look at validation, what was said of that step
    stays. A file that is not there says nothing.
    """
    found: dict[str, dict[int, dict[str, float]]] = {}
    latest: dict[str, int] = {}
    for line in read_lines(Path(path)):
        name, step = TrackedRun(line["strategy"], line["seed"]).name, line["step"]
        steps = found.setdefault(name, {})
        said = {key: value for key, value in line.items() if key not in _PLACE}
        if latest.get(name, step) > step:
            first = step + is_look(said)
            found[name] = steps = {earlier: values for earlier, values in steps.items() if earlier < first}
        latest[name] = step
        steps[step] = steps.get(step, {}) | said
    return found
