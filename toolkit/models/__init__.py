"""Foundation models by name: what a name means, where its weights come from, how they are loaded and identified.

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.models.adapted import adapter_digest, load_adapter, merged
    from toolkit.models.catalog import Entry, entries, read_entry, resolve
    from toolkit.models.endpoint import EndpointSource
    from toolkit.models.fetch import Fetched, fetch_weights, is_cached
    from toolkit.models.hardware import Dtype, cpu_flags, describe, resolve_device, resolve_dtype, tune_cpu
    from toolkit.models.load import LoadedModel, load_pretrained
    from toolkit.models.weights import shared_copy, tensors_digest, weights_digest

__all__ = [
    "Dtype",
    "EndpointSource",
    "Entry",
    "Fetched",
    "LoadedModel",
    "adapter_digest",
    "cpu_flags",
    "describe",
    "entries",
    "fetch_weights",
    "is_cached",
    "load_adapter",
    "load_pretrained",
    "merged",
    "read_entry",
    "resolve",
    "resolve_device",
    "resolve_dtype",
    "shared_copy",
    "tensors_digest",
    "tune_cpu",
    "weights_digest",
]

_PLACES = {
    "adapted": ("adapter_digest", "load_adapter", "merged"),
    "catalog": ("Entry", "entries", "read_entry", "resolve"),
    "endpoint": ("EndpointSource",),
    "fetch": ("Fetched", "fetch_weights", "is_cached"),
    "hardware": ("Dtype", "cpu_flags", "describe", "resolve_device", "resolve_dtype", "tune_cpu"),
    "load": ("LoadedModel", "load_pretrained"),
    "weights": ("shared_copy", "tensors_digest", "weights_digest"),
}


def __getattr__(name: str) -> object:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"toolkit.models.{module}"), name)
    raise AttributeError(f"module 'toolkit.models' has no attribute '{name}'")
