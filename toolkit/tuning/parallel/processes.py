"""The processes of a training: one alone, or several with a share of every step each.

All that is trained lies in one vector (`FlatWeights`), so data parallelism needs no wrapper around the model: gradients
and losses are added up, and every process then takes the same optimiser step. Nothing heavy is imported before it is
used; what several processes exchange is in `process_group`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from toolkit.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor


class LostContactError(RunError):
    """Another process is gone, or cannot be reached."""


class ElsewhereError(RunError):
    """What failed in another process is something a person can put right."""


class DefectElsewhereError(RuntimeError):
    """A defect in another process, which shows its traceback itself."""


class Processes:
    """One process alone: nothing is exchanged. `ProcessGroup` is several; all of them call the same methods in the same
    order.

    Attributes:
        rank: which one this is; process 0, the main one, alone writes files and speaks.
        count: how many there are.
    """

    rank, count = 0, 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_(self, tensor: Tensor, number: float = 0.0) -> float:
        """Adds a tensor up over all processes, in place, and a number, which is returned."""
        return number

    def from_main(self, text: str | None) -> str:
        """The text that process 0 gives; what the others give does not count."""
        assert text is not None
        return text

    def copy_from_main_(self, tensor: Tensor) -> None:
        """Puts process 0's tensor in the place of the others', which are of its shape and dtype."""

    def check_same(self, what: str, value: str, details: Callable[[], str] | None = None) -> None:
        """Refuses values that are not the same everywhere.

        Args:
            what: they are, in the plural, for the message.
            details: what the message says of a value; the value itself where it is None.

        Raises:
            ModelError: they differ; it says what each process has.
        """

    def texts(self, text: str) -> list[str]:
        """What every process gives, by rank."""
        return [text]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what all processes do: an exception in one ends the block in all."""
        yield

    def close(self) -> None:
        """Ends the contact; the others see that this process is gone."""


ALONE = Processes()
