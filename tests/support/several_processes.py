"""Processes that train together on this machine, started by a test and told by it what to do.

They are forked from a server that has imported what they need, so that a pair is there at once.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
PRELOADED = ["transformers.models.llama.modeling_llama", "peft", "toolkit.tuning.training", "toolkit.models.load"]
DEADLINE_SECONDS = 120.0
"""For one command, on a machine that does other things as well."""


class Several:
    """Started processes with their variables set as `torchrun` sets them."""

    def __init__(self, count: int = 2) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        quiet = {"GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
        self._pipes: list[Any] = []
        self._started: list[Any] = []
        for rank in range(count):
            here, there = context.Pipe()
            variables = {**shared, **quiet, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = context.Process(target=_one, args=(there, variables), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._started.append(process)

    def do(self, what: str, **words: Any) -> list[dict[str, Any]]:
        """Tells all processes to do the same, and gives what each answers."""
        return self.each(*[{"do": what, **words}] * len(self._pipes))

    def each(self, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        """Tells each process to `do` something, and gives what it answers: {} where it died."""
        for pipe, command in zip(self._pipes, commands, strict=True):
            pipe.send(command)
        return [_received(pipe) for pipe in self._pipes]

    def stop(self) -> None:
        for process in self._started:
            process.kill()
            process.join()


@contextmanager
def several(count: int = 2) -> Iterator[Several]:
    processes = Several(count)
    try:
        yield processes
    finally:
        processes.stop()


def _received(pipe: Any) -> dict[str, Any]:
    if not pipe.poll(DEADLINE_SECONDS):
        raise TimeoutError(f"no answer in {DEADLINE_SECONDS:.0f} seconds")
    try:
        found: dict[str, Any] = pipe.recv()
    except EOFError:
        return {}
    return found


# ------------------------------------------------------------------------------------------- in one of the processes


class Planned(Exception):
    """A defect that a test plans."""


def _one(pipe: Any, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    import torch

    from toolkit.tuning.parallel.launch import start_processes

    torch.set_num_threads(1)
    sys.path.insert(0, str(TESTS / "tuning"))
    processes = start_processes()
    seen = _observed()
    while True:
        words = pipe.recv()
        started = time.monotonic()
        seen.clear()
        try:
            found = {"train": _train, "lead": _lead, "serve": _serve}[words.pop("do")](processes, **words)
        except BaseException as error:
            found = {"error": type(error).__name__, "said": str(error)}
        pipe.send({**seen, **found, "seconds": time.monotonic() - started})


def _observed() -> dict[str, Any]:
    """Filled while training: `rows`, those of every step that are this process's, and `vector`, the trained one."""
    from toolkit.tuning import loop, training
    from toolkit.tuning.parallel import shares

    seen: dict[str, Any] = {}

    def own_rows(*given: Any) -> Any:
        rows = shares.own_rows(*given)
        seen.setdefault("rows", []).append(rows)
        return rows

    def check_same_weights(processes: Any, vector: Any) -> None:
        seen["vector"] = shares.tensor_digest(vector)
        shares.check_same_weights(processes, vector)

    loop.own_rows, loop.check_same_weights, training.check_same_weights = own_rows, *[check_same_weights] * 2
    return seen


def _train(processes: Any, **words: Any) -> dict[str, Any]:
    return _trained(_module(processes.rank, words), processes, **words)


def _lead(processes: Any, jobs: list[dict[str, Any]], ends_with: str | None = None) -> dict[str, Any]:
    """Process 0 of a run: some trainings of models in folders, whatever becomes of each, and then the end."""
    from toolkit.models import load_pretrained
    from toolkit.tuning.parallel.helpers import helpers

    found: dict[str, Any] = {"jobs": []}
    try:
        with helpers(processes):
            for words in jobs:
                module = load_pretrained(Path(words.pop("base")), words.pop("dtype", "float32"), "cpu").module
                try:
                    found["jobs"].append(_trained(module, None, **words))
                except BaseException as error:
                    found["jobs"].append({"error": type(error).__name__, "said": str(error)})
            if ends_with:
                raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[ends_with]
    except BaseException as error:
        found["ended"] = type(error).__name__
    return found


def _serve(processes: Any, planned: dict[str, Any] | None = None) -> dict[str, Any]:
    """A helper, which may fail to load a model as planned."""
    from toolkit.tuning.parallel import workers

    def load(folder: Path, dtype: str, device: str) -> Any:
        if planned and folder.name == planned["folder"]:
            raise _error(planned["error"])
        return workers._load(folder, planned.get("dtype", dtype) if planned else dtype, device)

    return {"code": workers.serve(processes, load)}


def _trained(module: Any, processes: Any, folder: str, **words: Any) -> dict[str, Any]:
    from toolkit.tuning import TuneSettings, train, write_sequences

    rank = processes.rank if processes else 0
    rows = importlib.import_module("conftest").random_sequences(12, words.get("data", [0] * (rank + 1))[rank])
    if "on_disk" in words:
        rows = write_sequences(words["on_disk"], rows)
    planned = words.get("planned", {}) if words.get("planned", {}).get("rank") == rank else {}

    def on_step(report: Any) -> None:
        if planned.get("place") == "on_step" and report.step == planned["step"]:
            raise _error(planned["error"])

    with _failing(planned):
        result = train(
            module,
            rows,
            TuneSettings(**words.get("settings", {})),
            folder,
            words.get("seed", 0),
            on_step=on_step,
            processes=processes,
            validate=(lambda _: 0.5) if words.get("looks") else None,
        )
    told = {"kept_step": result.kept_step, "looks": result.looks}
    return {"losses": result.losses, "digest": result.digest, "how": result.how, **told}


@contextmanager
def _failing(planned: dict[str, Any]) -> Iterator[None]:
    """Within it this process fails where a test plans it: in a step's passes, in a sum, in writing a checkpoint; or an
    optimiser's step goes astray.
    """
    import torch

    from toolkit.tuning import checkpoint
    from toolkit.tuning.micro_batches import MicroBatches
    from toolkit.tuning.parallel.process_group import ProcessGroup

    owners: dict[str, tuple[Any, str]] = {
        "pass": (MicroBatches, "accumulate"),
        "adamw": (torch.optim.AdamW, "step"),
        "sum": (ProcessGroup, "_group_of"),
        "checkpoint": (checkpoint, "write"),
    }
    if planned.get("place") not in owners:
        yield
        return
    owner, name = owners[planned["place"]]
    plain, calls = getattr(owner, name), iter(range(1, 1000))

    def instead(*given: Any) -> Any:
        if next(calls) != planned["step"]:
            return plain(*given)
        if planned["error"] != "drift":
            raise _error(planned["error"])
        plain(*given)
        given[0].param_groups[0]["params"][0].data[0] += 1e-6
        return None

    setattr(owner, name, instead)
    try:
        yield
    finally:
        setattr(owner, name, plain)


def _module(rank: int, words: dict[str, Any]) -> Any:
    """The tiny model; process 1's may be another one, or of another dtype."""
    import torch

    names = words.pop("dtypes", ["float32"] * (rank + 1))
    module = importlib.import_module("conftest").tiny_llama(getattr(torch, names[rank]))
    if rank in words.pop("changed", []):
        module.get_input_embeddings().weight.data[0, 0] += 1
    return module


def _error(name: str) -> BaseException:
    import torch

    from toolkit.errors import ModelError

    if name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    kinds = {
        "ModelError": ModelError,
        "Planned": Planned,
        "KeyboardInterrupt": KeyboardInterrupt,
        "OSError": OSError,
        "OutOfMemoryError": torch.OutOfMemoryError,
    }
    return kinds[name]("as planned")
