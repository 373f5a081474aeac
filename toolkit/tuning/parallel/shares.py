"""What several processes need of a training: a share of every step each, and the same start, state and end everywhere.

The loss of a step stays the mean over all its supervised tokens: every process weighs its sequences by the whole step,
so shares of any size add up to what one process computes, up to the rounding of sums.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from toolkit.errors import ModelError
from toolkit.models.weights import tensors_digest
from toolkit.seeds import derive
from toolkit.tuning import checkpoint
from toolkit.tuning.batches import Rows
from toolkit.tuning.checkpoint import State
from toolkit.tuning.parallel.processes import Processes


def own_rows(rows: Rows, lengths: Sequence[int], processes: Processes) -> Rows:
    """This process's sequences of a step: none where there are fewer than processes.

    Args:
        lengths: tokens of each sequence of the training.
    """
    return shares(rows, lengths, processes.count)[processes.rank]


def shares(rows: Rows, lengths: Sequence[int], count: int) -> list[Rows]:
    """A step's sequences in `count` parts of like many tokens, each in the step's order.

    The longest first, each to the part with the fewest tokens so far (Graham 1969): no part has more than 4/3 of the
    tokens that the best cut would leave it with.
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    filled = [(0, part) for part in range(count)]
    for place in sorted(range(len(rows)), key=lambda place: (-lengths[rows[place]], place)):
        tokens, part = heapq.heappop(filled)
        parts[part].append(place)
        heapq.heappush(filled, (tokens + lengths[rows[place]], part))
    return [tuple(rows[place] for place in sorted(part)) for part in parts]


def chance_seed(seed: int, number: int, processes: Processes) -> int:
    """The seed of a step's dropout and noise: another one in every process, that of a lone one in process 0."""
    where = f" in process {processes.rank}" if processes.rank else ""
    return derive(seed, f"dropout of step {number}{where}")


def check_same_start(processes: Processes, module: Any, key: str, how: str, vector: Any) -> None:
    """Refuses to train what is not the same training everywhere.

    Args:
        module: the base.
        key: `checkpoint.training_key`: of the base's tensors, the settings, the sequences and the seed.
        how: what computes the steps; another order of the trained tensors may come with it.
        vector: the trained weights before the first step.

    Raises:
        ModelError: something differs, and what; or processes share a device.
    """
    if processes.count == 1:
        return
    _check_devices(processes, module.device)
    processes.check_same("the weights, sequences, settings or seeds", key, lambda: _start_in_words(module, key))
    processes.check_same("the ways of computing a step", how)
    processes.check_same("the adapters before the first step", tensor_digest(vector)[:12])


def check_same_weights(processes: Processes, vector: Any) -> None:
    """Refuses weights of which every process has its own. After a first step, so that it is not told after the last.

    Raises:
        ModelError: the trained weights are not the same to the bit.
    """
    if processes.count > 1:
        what = "the trained weights (are processors, devices and numbers of threads all of one kind?)"
        processes.check_same(what, tensor_digest(vector)[:12])


def resume_everywhere(
    processes: Processes, folder: Path, key: str, vector: Any, optimiser: Any, usable: Callable[[State], bool]
) -> State:
    """`checkpoint.resume` by process 0, whose file it is, and its state in all processes."""
    done = State([], [])
    if processes.is_main:
        done = checkpoint.resume(folder, key, vector, optimiser, usable)
    if processes.count == 1:
        return done
    losses, looks, seconds = json.loads(processes.from_main(json.dumps(done)))
    if losses:
        processes.copy_from_main_(vector)
        _copy_state(processes, optimiser)
    return State(losses, [(step, value) for step, value in looks], seconds)


def _copy_state(processes: Processes, optimiser: Any) -> None:
    """Process 0's moments and step counts, whatever the optimiser calls them."""
    import torch

    parts = [part for group in optimiser.param_groups for part in group["params"]]
    shapes = [{name: list(one.shape) for name, one in optimiser.state[part].items()} for part in parts]
    for part, named in zip(parts, json.loads(processes.from_main(json.dumps(shapes))), strict=True):
        state = optimiser.state[part]
        for name, shape in named.items():
            if not processes.is_main:
                state[name] = torch.empty(shape, dtype=torch.float32, device=part.device)
            processes.copy_from_main_(state[name])


def tensor_digest(tensor: Any) -> str:
    """sha256 of a tensor's bytes."""
    import torch

    return hashlib.sha256(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()


def _start_in_words(module: Any, key: str) -> str:
    dtype = str(module.dtype).removeprefix("torch.")
    return f"weights {tensors_digest(module)[:12]} in {dtype} (all together {key[:12]})"


def _check_devices(processes: Processes, device: Any) -> None:
    """On CUDA a device belongs to one process; CPUs may be shared."""
    processes.check_same("the kinds of device", device.type)
    if device.type == "cpu":
        return
    if device.type != "cuda":
        raise ModelError(f"several processes train on CPUs or CUDA devices, not on '{device.type}': start one")
    places = processes.texts(f"{device} of {socket.gethostname()}")
    place, times = Counter(places).most_common(1)[0]
    if times > 1:
        raise ModelError(
            f"{times} of {processes.count} processes are on {place}: start as many as there are devices, call "
            "`start_processes` before the model is loaded, and name none of them in a recipe (`device: cuda`)"
        )
