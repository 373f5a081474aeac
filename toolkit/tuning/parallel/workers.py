"""A helper's side of a run: it waits, takes part in each of process 0's trainings, and leaves when it is told to."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.tuning.parallel.helpers import LEAVE, heard
from toolkit.tuning.parallel.processes import (
    DefectElsewhereError,
    ElsewhereError,
    LostContactError,
    Processes,
)
from toolkit.tuning.settings import TuneSettings

Load = Callable[[Path, str, str], Any]
"""From a model's folder, dtype and kind of device to its module."""


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
        items = heard(job["items"])
        settings = TuneSettings(**job["settings"])
    train(modules[place], items, settings, seed=int(job["seed"]), processes=processes)


def _load(folder: Path, dtype: str, device: str) -> Any:
    from toolkit.models import load_pretrained, tune_cpu

    tune_cpu()
    return load_pretrained(folder, dtype, device).module
