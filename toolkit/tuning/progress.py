"""What is told while a training goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.meter import peak_memory_bytes


@dataclass(frozen=True)
class StepReport:
    """One optimiser step.

    Attributes:
        step, steps: its number, from 1, and all.
        loss: the mean over its supervised tokens (nats), or over its pairs.
        tokens, supervised_tokens: of this step; padding is in neither.
        learning_rate: that it was taken with.
        gradient_norm: before it was clipped.
        seconds: that it took.
        memory_bytes: the peak so far, of the device or, on a CPU, of the process.
    """

    step: int
    steps: int
    loss: float
    tokens: int
    supervised_tokens: int
    learning_rate: float
    gradient_norm: float
    seconds: float
    memory_bytes: int


def memory_bytes(module: Any) -> int:
    """The peak of the module's device so far, or of the process."""
    import torch

    if module.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(module.device))
    return peak_memory_bytes()
