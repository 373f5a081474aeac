"""Helpers of a run: process 0 goes the whole road alone, the others wait and take part in each of its trainings.

A training is told to them as JSON: the folder and dtype of the base, the settings, the seed and the sequences.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toolkit.errors import ModelError, ToolkitError
from toolkit.rendering.prompt import Preference, TrainingSequence
from toolkit.tuning.amounts import Item
from toolkit.tuning.processes import (
    ALONE,
    DefectElsewhereError,
    ElsewhereError,
    LostContactError,
    Processes,
)
from toolkit.tuning.settings import TuneSettings

Load = Callable[[Path, str, str], Any]
"""From a model's folder, dtype and kind of device to its module."""

LEAVE = ""
"""What helpers are told instead of a training when there are no more."""

_waiting: Processes = ALONE


@contextmanager
def helpers(processes: Processes) -> Iterator[None]:
    """Around the work of process 0: every training in the block is shared with the others; then they leave.

    They leave as well when the block raises, whatever it is.
    """
    global _waiting
    _waiting = processes
    try:
        yield
    finally:
        _waiting = ALONE
        if processes is not ALONE:
            with suppress(ToolkitError, DefectElsewhereError):  # gone already
                processes.from_main(LEAVE)
            processes.close()


def waiting() -> Processes:
    """Those who take part in a training that is asked for now: `ALONE` where no helpers wait."""
    return _waiting


def ask(processes: Processes, module: Any, items: Sequence[Item], settings: TuneSettings, seed: int) -> None:
    """Tells helpers that wait what is trained; does nothing where they are none.

    Raises:
        ModelError: the module has no folder from which others could load it.
    """
    if processes is ALONE or processes is not _waiting:
        return
    folder = Path(str(getattr(module, "name_or_path", "")))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{processes.count} processes cannot train a model that was not loaded from a folder: save it and load it "
            "with `load_model`, or start one process"
        )
    job = {
        "folder": str(folder.resolve()),
        "dtype": str(module.dtype).removeprefix("torch."),
        "device": module.device.type,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "items": [[_told(one) for one in (item if isinstance(item, Preference) else [item])] for item in items],
    }
    processes.from_main(json.dumps(job))


def serve(processes: Processes, load: Load | None = None) -> int:
    """Takes part in process 0's trainings until it is done, and gives this process's exit code.

    An interruption is process 0's to deal with. What fails here is told there; only defects show here too.
    """
    if hasattr(signal, "SIGINT"):
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    modules: dict[tuple[str, str, str], Any] = {}
    while True:
        try:
            told = processes.from_main(None)
            if told == LEAVE:
                processes.close()
                return 0
            _take_part(json.loads(told), processes, load or _load, modules)
        except (ElsewhereError, DefectElsewhereError):
            continue
        except LostContactError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except ToolkitError:
            continue
        except Exception:
            traceback.print_exc()


def _take_part(
    job: Mapping[str, Any], processes: Processes, load: Load, modules: dict[tuple[str, str, str], Any]
) -> None:
    """One training.

    Args:
        modules: those loaded so far.
    """
    from toolkit.tuning.training import train

    with processes.together():
        place = (str(job["folder"]), str(job["dtype"]), str(job["device"]))
        if place not in modules:
            modules[place] = load(Path(place[0]), *place[1:])
        items = [_heard(item) for item in job["items"]]
        settings = TuneSettings(**job["settings"])
    train(modules[place], items, settings, seed=int(job["seed"]), processes=processes)


def _told(sequence: TrainingSequence) -> list[Any]:
    return [sequence.token_ids, [int(learnt) for learnt in sequence.supervised]]


def _heard(item: Sequence[Any]) -> Item:
    found = [TrainingSequence(tuple(ids), tuple(map(bool, supervised))) for ids, supervised in item]
    return found[0] if len(found) == 1 else Preference(*found)


def _load(folder: Path, dtype: str, device: str) -> Any:
    from toolkit.models import load_pretrained, tune_cpu

    tune_cpu()
    return load_pretrained(folder, dtype, device).module
