"""The processes that `torchrun` or `accelerate launch` has started."""

from __future__ import annotations

import os
from collections.abc import Mapping

from toolkit.errors import RunError
from toolkit.tuning.parallel.processes import ALONE, Processes

PATIENCE_HOURS = 48.0
"""How long processes wait for one that is busy: process 0 may validate, or answer a whole test set, meanwhile."""

_LAUNCHER = ("RANK", "MASTER_ADDR", "MASTER_PORT")


def start_processes(patience_hours: float = PATIENCE_HOURS, variables: Mapping[str, str] = os.environ) -> Processes:
    """This process among those that `torchrun` or `accelerate launch` started with it; `ALONE` where there are none.

    Each has a CUDA device of its own where there are enough: it is made the current one.

    Args:
        patience_hours: how long others are waited for, once all have started.
        variables: the environment's.

    Raises:
        RunError: the launcher's variables are incomplete, or the others did not start.
    """
    if variables.get("WORLD_SIZE", "1") in ("", "1"):
        return ALONE
    missing = [name for name in _LAUNCHER if not variables.get(name)]
    if missing:
        raise RunError(
            f"WORLD_SIZE is {variables['WORLD_SIZE']} but {', '.join(missing)} is not set: start with "
            "`torchrun --nproc-per-node N -m toolkit run RECIPE`, or unset WORLD_SIZE"
        )
    from toolkit.tuning.parallel.process_group import ProcessGroup

    return ProcessGroup.start(int(variables.get("LOCAL_RANK") or variables["RANK"]), patience_hours)


def started_alone(variables: Mapping[str, str] = os.environ) -> str | None:
    """A notice where `accelerate launch` was asked for several processes and started one, as it does on CPUs."""
    asked = any(name.startswith("ACCELERATE_") for name in variables) and "MASTER_ADDR" in variables
    if not asked or "WORLD_SIZE" in variables:
        return None
    return (
        "accelerate launch was asked for several processes and started one, as it does with --cpu; "
        "`torchrun --nproc-per-node N -m toolkit run RECIPE` starts several"
    )
