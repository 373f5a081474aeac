"""Several processes that train together, over torch.distributed: gloo between processors, nccl between CUDA devices.

Every exchange opens with the same small message: a number, and whether somebody failed. A process that fails says so in
place of whatever it would have exchanged next, so the others stop with its message instead of waiting for it.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn

import torch
from torch import distributed

from toolkit.errors import ModelError, RunError, ToolkitError
from toolkit.tuning.parallel.processes import DefectElsewhereError, ElsewhereError, LostContactError, Processes

START_MINUTES = 10.0
"""How long the others are waited for at the start."""


class ProcessGroup(Processes):
    """This process among several."""

    def __init__(self, small: Any, large: Any, owned: bool) -> None:
        """Use `start`.

        Args:
            small: the group over which processors exchange messages, and tensors that lie with them.
            large: the group over which CUDA devices exchange tensors; None without any.
            owned: whether torch.distributed was started for this group, and ends with it.
        """
        self.rank, self.count = distributed.get_rank(small), distributed.get_world_size(small)
        self._small, self._large, self._owned = small, large, owned
        self._whole = True  # False in an exchange, and for ever after one that did not end

    @classmethod
    def start(cls, local_rank: int, patience_hours: float) -> ProcessGroup:
        """Joins the processes that the launcher's variables name.

        Args:
            local_rank: this process's number on its machine, and its CUDA device's.
            patience_hours: how long another process may keep the others waiting.

        Raises:
            RunError: the others did not start.
        """
        if torch.cuda.is_available() and local_rank < torch.cuda.device_count():
            torch.cuda.set_device(local_rank)
        owned = not distributed.is_initialized()
        try:
            if owned:
                distributed.init_process_group("gloo", timeout=timedelta(minutes=START_MINUTES))
            small = distributed.new_group(backend="gloo", timeout=timedelta(hours=patience_hours))
            # its exchanges begin when all are there, so that the usual limit does
            large = distributed.new_group(backend="nccl") if torch.cuda.is_available() else None
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the processes did not find each other: {_first_line(error)}") from error
        return cls(small, large, owned)

    def sum_(self, tensor: torch.Tensor, number: float = 0.0) -> float:
        total = self._meet(number)
        with self._exchange():
            distributed.all_reduce(tensor, group=self._group_of(tensor))
        return total

    def from_main(self, text: str | None) -> str:
        content = (text or "").encode() if self.is_main else b""
        size = int(self._meet(len(content)))
        if not size:
            return ""
        buffer = torch.frombuffer(bytearray(content) if self.is_main else bytearray(size), dtype=torch.uint8)
        with self._exchange():
            distributed.broadcast(buffer, src=0, group=self._small)
        return bytes(buffer.numpy()).decode()

    def copy_from_main_(self, tensor: torch.Tensor) -> None:
        self._meet()
        with self._exchange():
            distributed.broadcast(tensor.detach(), src=0, group=self._group_of(tensor))

    def check_same(self, what: str, value: str, details: Callable[[], str] | None = None) -> None:
        found = self.texts(value)
        if len(set(found)) == 1:
            return
        if details is not None:
            found = self.texts(details())
        said = "; ".join(f"rank {rank} has {text}" for rank, text in enumerate(found))
        raise ModelError(f"{what} differ between the processes: {said}")

    def texts(self, text: str) -> list[str]:
        self._meet()
        with self._exchange():
            return self._gathered(text)

    @contextmanager
    def together(self) -> Iterator[None]:
        try:
            yield
        except (ElsewhereError, DefectElsewhereError):
            raise  # all know
        except BaseException as error:
            if self._whole:
                with suppress(ToolkitError, DefectElsewhereError):
                    self._meet(failure=_told(error))
            raise

    def close(self) -> None:
        self._whole = False
        self._small = self._large = None  # gloo closes its connections with the last reference
        if self._owned and distributed.is_initialized():
            with suppress(RuntimeError):
                distributed.destroy_process_group()

    def _meet(self, number: float = 0.0, failure: str = "") -> float:
        """Waits for all processes and gives the sum of their numbers.

        Args:
            failure: what failed here, as `_told` writes it.

        Raises:
            ElsewhereError: another process failed.
            DefectElsewhereError: another process failed through a defect.
            LostContactError: another process is gone.
        """
        sums = torch.tensor([number, float(bool(failure))], dtype=torch.float64)
        with self._exchange():
            distributed.all_reduce(sums, group=self._small)
            told = self._gathered(failure) if sums[1] else []
        if told and not failure:
            _raise_elsewhere(told)
        return float(sums[0])

    def _gathered(self, text: str) -> list[str]:
        content = text.encode()
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        distributed.all_gather(sizes, torch.tensor([len(content)]), group=self._small)
        longest = max(map(int, sizes))
        mine = torch.frombuffer(bytearray(content.ljust(longest + 1)), dtype=torch.uint8)
        found = [torch.empty_like(mine) for _ in sizes]
        distributed.all_gather(found, mine, group=self._small)
        return [bytes(one[: int(size)].numpy()).decode() for one, size in zip(found, sizes, strict=True)]

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Around calls that all processes make. One that is broken off leaves nothing to go on with."""
        if not self._whole:
            raise LostContactError("the contact to the other processes is lost")
        self._whole = False
        try:
            yield
        except RuntimeError as error:
            self.close()
            raise LostContactError(
                f"rank {self.rank} of {self.count} lost the contact to another process, which ended or was killed, for "
                "want of memory perhaps; run the same command again, without `--fresh`, to go on "
                f"({_first_line(error)})"
            ) from error
        except BaseException:
            self.close()
            raise
        self._whole = True

    def _group_of(self, tensor: torch.Tensor) -> Any:
        return self._large if tensor.device.type == "cuda" else self._small


def _told(error: BaseException) -> str:
    """A failure as the other processes hear of it."""
    if isinstance(error, ToolkitError):
        return json.dumps({"mendable": True, "said": str(error)})
    if isinstance(error, KeyboardInterrupt):
        return json.dumps({"mendable": True, "said": "interrupted"})
    name = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
    return json.dumps({"mendable": False, "said": ": ".join(filter(None, (name, str(error))))})


def _raise_elsewhere(told: list[str]) -> NoReturn:
    """Raises what the first of the processes that failed said."""
    rank = next(rank for rank, text in enumerate(told) if text)
    failure = json.loads(told[rank])
    said = f"rank {rank} of {len(told)}: {failure['said']}"
    raise ElsewhereError(said) if failure["mendable"] else DefectElsewhereError(said)


def _first_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip().splitlines()[0]
