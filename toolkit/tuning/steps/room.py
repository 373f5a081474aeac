"""Memory for what a pass keeps for its backward pass: one block that stays from pass to pass, filled from its start.

What a pass keeps lives long and is made between tensors that do not: out of the heap, every layer would leave holes
that nothing later fits, a third of the whole and more. Side by side in a block of its own it takes what it takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

ALIGNMENT = 64
"""Bytes: where tensors start, as torch's own allocator has it on a CPU."""


class Shape(NamedTuple):
    """A tensor that is to be kept."""

    sizes: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Its own bytes."""
        return math.prod(self.sizes) * int(self.dtype.itemsize)

    @property
    def bytes(self) -> int:
        """What it takes of a room."""
        return -(-self.size // ALIGNMENT) * ALIGNMENT


class Room:
    """A block of memory on a device, given out from its start and taken back from its end."""

    def __init__(self, device: Any) -> None:
        self._block = torch.empty(0, dtype=torch.uint8, device=device)
        self._used = 0

    def open(self, size: int) -> None:
        """Takes everything back, and makes sure of so many bytes."""
        self._used = 0
        if size > len(self._block):
            self.give_back()  # before a larger one is made
            self._block = self._block.new_empty(size)

    def give_back(self) -> None:
        """Frees the block."""
        self._used = 0
        self._block = self._block.new_empty(0)

    def has(self, *shapes: Shape) -> bool:
        """Whether there is room for them all."""
        return self._used + sum(shape.bytes for shape in shapes) <= len(self._block)

    def take(self, shapes: Sequence[Shape]) -> list[torch.Tensor]:
        """Tensors with whatever their memory held.

        Raises:
            ValueError: there is no room for them.
        """
        if not self.has(*shapes):
            raise ValueError(f"{len(self._block)} bytes are no room for {len(shapes)} more tensors")
        found = []
        for shape in shapes:
            found.append(self.at(self._used, shape))
            self._used += shape.bytes
        return found

    def at(self, start: int, shape: Shape) -> torch.Tensor:
        """A tensor where so many bytes lie before it."""
        return self._block[start : start + shape.size].view(shape.dtype).view(shape.sizes)

    def holds(self, storage: Any) -> bool:
        """Whether a tensor's memory lies in this block."""
        return bool(storage.data_ptr() == self._block.untyped_storage().data_ptr())

    @property
    def used(self) -> int:
        """Bytes given out."""
        return self._used

    def back_to(self, used: int) -> None:
        """Takes back what was given out since so many bytes were."""
        self._used = used
