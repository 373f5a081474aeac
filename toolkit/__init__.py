"""Which way of adapting a foundation model wins on a task: prompting, retrieval, LoRA, or a stack of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.inference import LocalModel, RemoteModel, Sampling, ScriptedModel, Weights, load_model
    from toolkit.recipe import load_recipe
    from toolkit.rendering import Draft, Renderer, Template
    from toolkit.retrieval import Chunking, Encoder, Retriever, read_folder
    from toolkit.runs.run import run
    from toolkit.statistics import paired_difference
    from toolkit.strategies.adapter import Adapter, FitContext, Part
    from toolkit.tasks.example import Example
    from toolkit.tasks.load import load_task
    from toolkit.tasks.messages import Message
    from toolkit.tasks.output import Output
    from toolkit.tuning import TuneSettings, train

__version__ = "0.1.0"

_PLACES = {
    "toolkit.inference": ("LocalModel", "RemoteModel", "Sampling", "ScriptedModel", "Weights", "load_model"),
    "toolkit.recipe": ("load_recipe",),
    "toolkit.rendering": ("Draft", "Renderer", "Template"),
    "toolkit.retrieval": ("Chunking", "Encoder", "Retriever", "read_folder"),
    "toolkit.runs.run": ("run",),
    "toolkit.statistics": ("paired_difference",),
    "toolkit.strategies.adapter": ("Adapter", "FitContext", "Part"),
    "toolkit.tasks.example": ("Example",),
    "toolkit.tasks.load": ("load_task",),
    "toolkit.tasks.messages": ("Message",),
    "toolkit.tasks.output": ("Output",),
    "toolkit.tuning": ("TuneSettings", "train"),
}

__all__ = [
    "Adapter",
    "Chunking",
    "Draft",
    "Encoder",
    "Example",
    "FitContext",
    "LocalModel",
    "Message",
    "Output",
    "Part",
    "RemoteModel",
    "Renderer",
    "Retriever",
    "Sampling",
    "ScriptedModel",
    "Template",
    "TuneSettings",
    "Weights",
    "load_model",
    "load_recipe",
    "load_task",
    "paired_difference",
    "read_folder",
    "run",
    "train",
]


def __getattr__(name: str) -> object:
    """Names are loaded when first asked for, so that importing one engine does not import the others."""
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'toolkit' has no attribute '{name}'")
