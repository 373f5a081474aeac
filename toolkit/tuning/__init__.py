"""Tuning: LoRA adapters trained on rendered sequences, in PEFT's format, the base left untouched.

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.tuning.adapter import save_adapter
    from toolkit.tuning.forecast import Forecast
    from toolkit.tuning.parallel.launch import start_processes
    from toolkit.tuning.sequence_file import SequenceFile, write_sequences
    from toolkit.tuning.settings import TuneSettings
    from toolkit.tuning.training import TrainingResult, train

__all__ = [
    "Forecast",
    "SequenceFile",
    "TrainingResult",
    "TuneSettings",
    "save_adapter",
    "start_processes",
    "train",
    "write_sequences",
]

_PLACES = {
    "adapter": ("save_adapter",),
    "forecast": ("Forecast",),
    "parallel.launch": ("start_processes",),
    "sequence_file": ("SequenceFile", "write_sequences"),
    "settings": ("TuneSettings",),
    "training": ("TrainingResult", "train"),
}


def __getattr__(name: str) -> object:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"toolkit.tuning.{module}"), name)
    raise AttributeError(f"module 'toolkit.tuning' has no attribute '{name}'")
