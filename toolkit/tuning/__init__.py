"""Tuning: LoRA adapters trained on rendered sequences, in PEFT's format, the base left untouched.

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.tuning.adapter import save_adapter
    from toolkit.tuning.checks import check_items
    from toolkit.tuning.forecast import Forecast
    from toolkit.tuning.parallel.launch import start_processes
    from toolkit.tuning.progress import StepReport
    from toolkit.tuning.selection import Look
    from toolkit.tuning.sequence_file import SequenceFile, write_sequences
    from toolkit.tuning.settings import TuneSettings
    from toolkit.tuning.training import TrainingResult, train

__all__ = [
    "Forecast",
    "Look",
    "SequenceFile",
    "StepReport",
    "TrainingResult",
    "TuneSettings",
    "check_items",
    "save_adapter",
    "start_processes",
    "train",
    "write_sequences",
]

_PLACES = {
    "adapter": ("save_adapter",),
    "checks": ("check_items",),
    "forecast": ("Forecast",),
    "parallel.launch": ("start_processes",),
    "progress": ("StepReport",),
    "selection": ("Look",),
    "sequence_file": ("SequenceFile", "write_sequences"),
    "settings": ("TuneSettings",),
    "training": ("TrainingResult", "train"),
}


def __getattr__(name: str) -> object:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"toolkit.tuning.{module}"), name)
    raise AttributeError(f"module 'toolkit.tuning' has no attribute '{name}'")
