"""What an answer's bytes depend on besides content: code, versions, dtype, threads."""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import lru_cache
from pathlib import Path
from typing import Any

from toolkit.inference import FoundationModel, LocalModel
from toolkit.models.four_bit import dtype_name, is_quantised
from toolkit.recipe import Recipe

VERSIONED = ("torch", "transformers", "peft", "sentence-transformers", "faiss-cpu", "tokenizers", "numpy")

PACKAGES = ("tasks", "models", "rendering", "inference", "prompting", "retrieval", "tuning", "strategies")


def environment(model: FoundationModel, recipe: Recipe) -> dict[str, Any]:
    """What bytes depend on besides content."""
    facts: dict[str, Any] = {**versions(), "dtype": "none"}
    facts["batch_tokens"] = recipe.batch_tokens
    facts["chunk_examples"] = recipe.chunk_examples
    if isinstance(model, LocalModel):
        import torch

        if is_quantised(model.module):
            facts["bitsandbytes"] = _version("bitsandbytes")
        facts |= {
            "dtype": dtype_name(model.module),
            "device": str(model.module.device.type),
            "threads": torch.get_num_threads(),
            "path": model.path.partition(":")[0],
        }
    return facts


def versions() -> dict[str, str]:
    """Of the libraries and of our own code: what another one made is not believed, whatever it is."""
    return {**{name: _version(name) for name in VERSIONED}, "code": code_digest()}


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Of the code that makes prompts, passages, answers and weights."""
    state = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            state.update(path.name.encode() + path.read_bytes())
    state.update((root / "seeds.py").read_bytes())
    return state.hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
