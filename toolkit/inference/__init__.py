"""Inference: one protocol for every model; local scoring and decoding, and asking a server."""

from toolkit.inference.load import load_model
from toolkit.inference.local import LocalModel
from toolkit.inference.model import Bill, FoundationModel, Generation, Sampling, Weights
from toolkit.inference.remote import RemoteModel
from toolkit.inference.scripted import ScriptedModel

__all__ = [
    "Bill",
    "FoundationModel",
    "Generation",
    "LocalModel",
    "RemoteModel",
    "Sampling",
    "ScriptedModel",
    "Weights",
    "load_model",
]
