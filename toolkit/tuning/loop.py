"""The loop: step by step, with checkpoints, looks at validation and whoever is told.

Every process takes the same steps on its share of their rows; process 0 alone writes, looks and tells.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.errors import ModelError
from toolkit.models.adapted import cuda_devices
from toolkit.tuning.batches import Rows
from toolkit.tuning.checkpoint import State
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.micro_batches import MicroBatches
from toolkit.tuning.objective import Objective
from toolkit.tuning.parallel.processes import Processes
from toolkit.tuning.parallel.shares import chance_seed, check_same_weights, own_rows
from toolkit.tuning.progress import StepReport, memory_bytes
from toolkit.tuning.schedule import rate_share, set_rate
from toolkit.tuning.selection import Selection
from toolkit.tuning.settings import TuneSettings


@dataclass(frozen=True)
class Loop:
    """What the steps of a training need.

    Attributes:
        steps: the rows of each.
        peak_rate: the largest learning rate.
        write: keeps what has been done, with the weights as they are.
    """

    module: Any
    settings: TuneSettings
    seed: int
    processes: Processes
    objective: Objective
    steps: Sequence[Rows]
    micro_batches: MicroBatches
    weights: FlatWeights
    optimiser: Any
    peak_rate: float
    selection: Selection
    write: Callable[[State], None]
    on_step: Callable[[StepReport], None]

    def run(self, losses: list[float]) -> None:
        """Goes on from the steps that are done, to the end or until patience ends; their losses are added to.

        Raises:
            ModelError: a loss is no longer a number.
        """
        first = len(losses)
        self._look(losses)
        for number in range(first, len(self.steps)):
            if self._stops():
                break
            started = time.perf_counter()
            rate = self.peak_rate * rate_share(number, len(self.steps), self.settings)
            loss, norm = self._step(number, rate)
            losses.append(loss)
            if number == first:
                check_same_weights(self.processes, self.weights.vector)
            if self.processes.is_main:
                self._after(losses, self._report(loss, rate, norm, number, time.perf_counter() - started))

    def _step(self, number: int, rate: float) -> tuple[float, float]:
        """Takes a step: its loss, and its gradient's norm before it was clipped."""
        import torch

        set_rate(self.optimiser, rate)
        rows = self.steps[number]
        with torch.random.fork_rng(devices=cuda_devices(self.module)):
            torch.manual_seed(chance_seed(self.seed, number, self.processes))
            share = self.micro_batches.accumulate(own_rows(rows, self.objective.lengths, self.processes), rows)
        loss = self.processes.sum_(self.weights.gradient, share)
        norm = float(torch.nn.utils.clip_grad_norm_([self.weights.vector], self.settings.clip))
        _check_finite(loss, norm, number, len(self.steps), rate)
        self.optimiser.step()
        self.weights.publish()
        return loss, norm

    def _after(self, losses: list[float], report: StepReport) -> None:
        every, done = self.settings.checkpoint_every, len(losses)
        if every and (done % every == 0 or done == len(self.steps)):
            self.write(State(losses, self.selection.looks))
        self.on_step(report)
        self._look(losses)

    def _look(self, losses: list[float]) -> None:
        """A look at validation where one is due, kept before the state that it beats is given up."""
        if self.processes.is_main and self.selection.look(len(losses)):
            if losses:
                self.write(State(losses, self.selection.looks))
            self.selection.prune()

    def _stops(self) -> bool:
        """Whether patience has ended: what process 0 finds."""
        if self.settings.patience is None:
            return False
        return self.processes.from_main("stop" if self.selection.stops else "go on") == "stop"

    def _report(self, loss: float, rate: float, norm: float, number: int, seconds: float) -> StepReport:
        rows, objective = self.steps[number], self.objective
        tokens, supervised = (sum(some[row] for row in rows) for some in (objective.lengths, objective.supervised))
        peak = memory_bytes(self.module)
        return StepReport(number + 1, len(self.steps), loss, tokens, supervised, rate, norm, seconds, peak)


def _check_finite(loss: float, norm: float, number: int, steps: int, rate: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise ModelError(
            f"step {number + 1} of {steps}: the loss is {loss} and its gradient's norm {norm}; "
            f"lower `learning_rate` (it is {rate:.1e} at this step) or `clip`, or load the model in float32"
        )
