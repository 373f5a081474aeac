"""Keys and values that outlive one forward pass: a shared prefix, and slots of rows under way.

Letters: H key-value heads, P prefix tokens, d head size, L layers. Buffers are made once and written in place: nothing
grows by concatenation, and a prefix is kept once however many rows attend to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a shared prefix: a layer two tensors [H, P, d]."""

    token_ids: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def __len__(self) -> int:
        return len(self.token_ids)


NO_PREFIX = Prefix((), ())


class Slots:
    """Room for so many rows of at most `capacity` tokens each, a layer two tensors [rows, H, capacity, d].

    The tensors are made when the first layer writes, for only its keys know their heads, sizes, dtype and device: all
    `layers` of them at once, since between the passing tensors of a forward pass they would leave holes. Later shapes
    of the room (`reshape`) lie in the same memory.
    """

    def __init__(self, rows: int, capacity: int, layers: int = 0) -> None:
        self.rows = rows
        self.capacity = capacity
        self._tokens = rows * capacity
        self._expected = layers
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def layer(self, index: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's buffers, made like `keys` [H, N, d] and `values` [H, N, d]."""
        if not self._layers:
            self._layers = {each: (self._room(keys), self._room(values)) for each in range(self._expected)}
        if index not in self._layers:
            self._layers[index] = (self._room(keys), self._room(values))
        return self._layers[index]

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copies a row's first tokens to another slot."""
        for keys, values in self._layers.values():
            keys[target, :, :tokens] = keys[source, :, :tokens]
            values[target, :, :tokens] = values[source, :, :tokens]

    def reshape(self, capacity: int, live: int) -> None:
        """More and smaller slots in the same memory, when no row needs the old size any more.

        Args:
            live: the first so many slots keep what they hold.
        """
        self.rows, self.capacity = self._tokens // capacity, capacity
        for index, (keys, values) in self._layers.items():
            self._layers[index] = (self._reshaped(keys, live), self._reshaped(values, live))

    def prefix(self, token_ids: tuple[int, ...]) -> Prefix:
        """What stands in slot 0, as a prefix; the tensors are shared with the slot."""
        size = len(token_ids)
        return Prefix(
            token_ids,
            tuple(
                (self._layers[index][0][0, :, :size], self._layers[index][1][0, :, :size])
                for index in sorted(self._layers)
            ),
        )

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        # zeros, not empty: what stands behind a row's end is masked, but garbage times a weight of 0 may be nan
        room = like.new_zeros(self._tokens * like.shape[0] * like.shape[2])
        return self._shaped(room, like.shape[0], like.shape[2])

    def _shaped(self, room: torch.Tensor, heads: int, size: int) -> torch.Tensor:
        whole = self.rows * self.capacity * heads * size
        return room[:whole].view(self.rows, heads, self.capacity, size)

    def _reshaped(self, old: torch.Tensor, live: int) -> torch.Tensor:
        _, heads, _, size = old.shape
        kept = old[:live, :, : self.capacity].clone()
        room = old.new_empty(0).set_(old.untyped_storage(), 0, (self._tokens * heads * size,))
        new = self._shaped(room, heads, size)
        new[:live, :, : kept.shape[2]] = kept
        return new
