"""Rotary positions whose frequencies follow the longest row seen: which models have them, and how they begin anew."""

from __future__ import annotations

import copy
from typing import Any

FREQUENCIES = "inv_freq"


def moving_positions(config: Any) -> str | None:
    """The kind of rotary positions whose frequencies follow the longest row of a pass, where the model has such."""
    said = getattr(config, "rope_parameters", None) or {}
    kinds = [said, *(value for value in said.values() if isinstance(value, dict))]
    types = [str(one.get("rope_type", "default")) for one in kinds]
    return next((kind for kind in types if kind == "longrope" or "dynamic" in kind), None)


class Positions:
    """The modules of a model that hold such frequencies, as they are before any row.

    Args:
        module: a module tree of one's own (`shared_copy`): its rotary modules are replaced.
    """

    def __init__(self, module: Any) -> None:
        self._pristine = [(parent, name, _begun_anew(part)) for parent, name, part in _rotary(module)]

    def forget(self) -> None:
        """What the next row sees does not depend on those before it."""
        for parent, name, pristine in self._pristine:
            setattr(parent, name, copy.deepcopy(pristine))


def _rotary(module: Any) -> list[tuple[Any, str, Any]]:
    found = []
    for name, part in list(module.named_modules()):
        if any(buffer.endswith(FREQUENCIES) for buffer, _ in part.named_buffers(recurse=False)):
            parent, _, leaf = name.rpartition(".")
            found.append((module.get_submodule(parent), leaf, part))
    return found


def _begun_anew(part: Any) -> Any:
    """A copy without what rows have left: whoever gave the model may have asked it before."""
    part = copy.deepcopy(part)
    for name, buffer in list(part.named_buffers(recurse=False)):
        if name.endswith(f"original_{FREQUENCIES}"):
            setattr(part, name.replace(f"original_{FREQUENCIES}", FREQUENCIES), buffer.clone())
    for name in list(vars(part)):
        if name.endswith("max_seq_len_cached"):
            setattr(part, name, part.original_max_seq_len)
    return part
