"""What autograd keeps of a pass: how much, asked of autograd itself, and where, a block of its own.

Kept in the heap, between tensors that are freed at once, it takes 1.4 to 2.6 times its size (measured with glibc: rows
of 8 x 26 and 8 x 170 tokens, dropout and DoRA, bfloat16). Copied into a `Room` it takes its size, for a twentieth more
time. Only on a CPU: CUDA's allocator has its own way.
Letters: N tokens of a pass, M predicting ones, T tokens of a row.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from toolkit.models.adapted import cuda_devices
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.steps.room import Room, Shape

ASKED_TOKENS = 8
"""Of the shortest row that autograd is asked about; the others have two and four times as many."""

SPARE_BYTES = 1 << 20
"""Of a room, as its tensors start at round addresses."""


class Growth(NamedTuple):
    """Bytes that autograd keeps of a pass, by what they grow with: tokens, squares of rows, predicting tokens."""

    constant: float
    token: float
    square: float
    predicting: float

    def bytes(self, rows: Sequence[int], predicting: int) -> int:
        """For rows of so many tokens each."""
        squares = sum(length**2 for length in rows)
        return int(self.constant + self.token * sum(rows) + self.square * squares + self.predicting * predicting)


def growth(losses: Callable[[Sequence[TrainingSequence]], torch.Tensor], module: Any) -> Growth:
    """Asks autograd what it keeps, on four short rows that are run forwards only. No global chance is used up.

    Args:
        losses: of the supervised tokens of a pass, with their graph.
        module: in training mode.
    """
    context = getattr(module.config.get_text_config(), "max_position_embeddings", None) or 4 * ASKED_TOKENS
    size = max(2, min(ASKED_TOKENS, context // 4))
    with torch.random.fork_rng(devices=cuda_devices(module)):
        kept = [_kept_bytes(losses, module, probe_row(module, times * size, 1)) for times in (1, 2, 4)]
        more = _kept_bytes(losses, module, probe_row(module, 4 * size, 2 * size))
    square = (kept[2] - 3 * kept[1] + 2 * kept[0]) / (6 * size**2)
    token = (kept[1] - kept[0]) / size - 3 * square * size
    predicting = (more - kept[2]) / (2 * size - 1)
    return Growth(kept[0] - token * size - square * size**2 - predicting, token, square, predicting)


def probe_row(module: Any, length: int, taught: int) -> TrainingSequence:
    """A row whose last tokens are supervised."""
    words = module.get_input_embeddings().weight.shape[0]
    ids = tuple(place % words for place in range(length))
    return TrainingSequence(ids, tuple(place >= length - taught for place in range(length)))


class SavedTensors:
    """Where autograd keeps what a pass saves for its backward pass.

    Args:
        module: what is trained; its own tensors are not copied.
    """

    def __init__(self, module: Any) -> None:
        self._module, self._room = module, Room(module.device)
        self._own: set[int] = set()
        self._seen: dict[tuple[int, int], tuple[weakref.ref[Any], weakref.ref[_Copy]]] = {}
        self._gaps: list[tuple[int, int]] = []
        self._passed = 0

    def reserve(self, size: int) -> None:
        """Makes room for the largest pass before a smaller one is computed."""
        self._room.open(size + SPARE_BYTES)

    def give_back(self) -> None:
        """Frees the room between passes."""
        self._room.give_back()

    @contextmanager
    def keeping(self, size: int) -> Iterator[None]:
        """Around a forward pass that saves so many bytes; what it saved is valid until the next one.

        What finds no room stays where it is.
        """
        self._room.open(size + SPARE_BYTES)
        self._seen, self._gaps = {}, []  # new ones: an earlier pass may still write to its own
        tensors = (*self._module.parameters(), *self._module.buffers())
        self._own = {one.untyped_storage().data_ptr() for one in tensors}
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
            yield
        self._seen, self._passed = {}, self._room.used

    @contextmanager
    def again(self) -> Iterator[None]:
        """Around a part of the pass that is run again backwards; what it saved is valid until the next part is."""
        self._room.back_to(self._passed)
        self._seen, self._gaps = {}, []
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
            yield
        self._seen = {}

    def _pack(self, tensor: torch.Tensor) -> Any:
        """A tensor to be saved -> how to get it back: its memory is copied once, whatever views of it are saved."""
        if type(tensor) is not torch.Tensor or tensor.layout != torch.strided or not tensor.numel():
            return tensor
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._own or self._room.holds(storage):  # as what entered a layer that is run again
            return tensor
        key = storage.data_ptr(), tensor._version  # another version is another content
        known, copy = self._seen.get(key, (None, None))
        found = copy() if known is not None and copy is not None and known() is storage else None
        if found is None:  # never seen, or its memory is another tensor's by now
            found = self._copied(storage)
            if found is None:
                return tensor
            self._seen[key] = weakref.ref(storage), weakref.ref(found)
        return tensor.dtype, tensor.size(), tensor.stride(), tensor.storage_offset(), found

    def _copied(self, storage: Any) -> _Copy | None:
        """A copy in the room, or None where there is none; it leaves a gap once autograd has no more use for it."""
        shape = Shape((storage.nbytes(),), torch.uint8)
        place = next((at for at, (start, end) in enumerate(self._gaps) if end - start >= shape.bytes), None)
        if place is not None:
            start, end = self._gaps[place]
            self._gaps[place] = start + shape.bytes, end
        elif self._room.has(shape):
            start = self._room.used
            self._room.take([shape])
        else:
            return None
        found = _Copy(self._room.at(start, shape))
        found.tensor.copy_(torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),)))
        weakref.finalize(found, self._gaps.append, (start, start + shape.bytes)).atexit = False
        return found

    def _unpack(self, packed: Any) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        dtype, size, stride, offset, copy = packed
        first = copy.tensor.storage_offset() // dtype.itemsize + offset
        return torch.empty(0, dtype=dtype).set_(copy.tensor.untyped_storage(), first, size, stride)


class _Copy:
    """A tensor for as long as autograd refers to it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def _kept_bytes(
    losses: Callable[[Sequence[TrainingSequence]], torch.Tensor], module: Any, row: TrainingSequence
) -> int:
    """Of the tensors that a pass's graph still holds at its end, those that are not the module's own."""
    own = {one.untyped_storage().data_ptr() for one in (*module.parameters(), *module.buffers())}
    held: weakref.WeakSet[_Copy] = weakref.WeakSet()

    def pack(tensor: torch.Tensor) -> _Copy:
        holder = _Copy(tensor.detach())  # with its graph it would hold itself, where no collector looks
        held.add(holder)
        return holder

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
        found = losses([row])
    storages = [holder.tensor.untyped_storage() for holder in held]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    del found
    return sum(size for place, size in sizes.items() if place not in own)
