"""AdamW, and the learning rate that it has at each step."""

from __future__ import annotations

import math
from typing import Any

from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.settings import TuneSettings


def rate_share(step: int, steps: int, settings: TuneSettings) -> float:
    """The learning rate of a step (from 0) as a share of the peak: a linear rise, then the schedule; never 0."""
    warmup = settings.warmup_steps(steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = (steps - step) / (steps - warmup)
    if settings.schedule == "linear":
        return left
    return 1.0 if settings.schedule == "constant" else (1 - math.cos(math.pi * left)) / 2


def adamw(weights: FlatWeights, settings: TuneSettings) -> Any:
    """AdamW on one vector; with LoRA+ on its two halves, all B being the second, each with its own rate."""
    import torch

    groups: list[dict[str, Any]] = [{"params": [weights.vector], "ratio": 1.0}]
    if settings.b_rate_ratio != 1:
        others, ups = weights.halves()
        groups = [{"params": [others], "ratio": 1.0}, {"params": [ups], "ratio": settings.b_rate_ratio}]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, betas=betas, weight_decay=settings.weight_decay, fused=True)


def set_rate(optimiser: Any, rate: float) -> None:
    """For the next step: each group's own multiple of it."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["ratio"]
