"""Helpers of a run: process 0 goes the whole road alone, and tells those who wait of each of its trainings.

A training is told as JSON: the folder and dtype of the base, the settings, the seed and what is learnt; of sequences on
disk their folder, where every process has to find them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toolkit.errors import ModelError, ToolkitError
from toolkit.models.four_bit import asked_dtype, dtype_name
from toolkit.rendering.prompt import Preference, TrainingSequence
from toolkit.tuning.amounts import Item
from toolkit.tuning.parallel.processes import ALONE, DefectElsewhereError, Processes
from toolkit.tuning.sequence_file import SequenceFile
from toolkit.tuning.settings import TuneSettings

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
        "dtype": asked_dtype(dtype_name(module)),
        "device": module.device.type,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "items": _told(items),
    }
    processes.from_main(json.dumps(job))


def _told(items: Sequence[Item]) -> Any:
    if isinstance(items, SequenceFile):
        return str(items.folder.resolve())
    return [[_marked(one) for one in (item if isinstance(item, Preference) else [item])] for item in items]


def _marked(sequence: TrainingSequence) -> list[Any]:
    return [sequence.token_ids, [int(learnt) for learnt in sequence.supervised]]


def heard(told: str | Sequence[Any]) -> Sequence[Item]:
    """The sequences or preferences that a helper was told of.

    Raises:
        DataError: a folder of sequences is not to be found here.
    """
    return SequenceFile(told) if isinstance(told, str) else [_heard(item) for item in told]


def _heard(item: Sequence[Any]) -> Item:
    found = [TrainingSequence(tuple(ids), tuple(map(bool, supervised))) for ids, supervised in item]
    return found[0] if len(found) == 1 else Preference(*found)
