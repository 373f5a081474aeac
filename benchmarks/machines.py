"""What is told of a machine, and whose rows are whose: a claim's JSON holds those of each machine apart."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = (
    *("adaptation-toolkit", "torch", "transformers", "lm-eval", "trl", "peft"),
    *("tokenizers", "datasets", "accelerate", "numpy"),
)


def same_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether figures may stand in one table: processor, its bf16, cores and GPUs are the same."""
    return all(one[key] == other[key] for key in ("cpu", "cpu_bf16_flags", "cores", "gpus"))


def all_rows(path: Path) -> list[dict[str, Any]]:
    """A claim's rows, each work once: of the first machine that has it."""
    found: dict[str, dict[str, Any]] = {}
    for machine in json.loads(path.read_text(encoding="utf-8"))["machines"]:
        found = {one["work"]: one for one in machine["rows"]} | found
    return list(found.values())


def installed() -> dict[str, str]:
    """Versions of the packages that matter, in this process."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
