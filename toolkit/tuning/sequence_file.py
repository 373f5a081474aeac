"""Training sequences on disk, for more of them than memory holds: written one by one, read by memory-mapped arrays.

A folder of three arrays, little-endian, sequence behind sequence: `token_ids.i32`, `supervised.bits` (one bit a token,
lowest first) and `offsets.i64` (where each sequence begins, and the end); `manifest.json` says what they hold. Besides
four bytes a sequence for its length and as many for what is learnt of it, nothing grows with the file but the pages of
it that were touched, which the system takes back when memory is short.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np

from toolkit.errors import DataError
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.amounts import sequence_bytes

IDS, MASK, OFFSETS, MANIFEST = "token_ids.i32", "supervised.bits", "offsets.i64", "manifest.json"
FORMAT = 1
BLOCK_TOKENS = 1 << 16
"""Read or written at once."""


class SequenceFile(Sequence[TrainingSequence]):
    """The sequences of a folder that `write_sequences` made; `train` takes it as it takes a list.

    Args:
        folder: what `write_sequences` was given.
        verify: read everything and compare it with the manifest's digest. Sizes are compared always.

    Attributes:
        tokens, supervised_tokens: of all sequences; supervised are those that can be predicted.

    Raises:
        DataError: the folder holds no sequences, or not those that its manifest tells of.
    """

    def __init__(self, folder: Path | str, verify: bool = False) -> None:
        self.folder = Path(folder)
        self._manifest = _manifest(self.folder)
        self.tokens: int = self._manifest["tokens"]
        self.supervised_tokens: int = self._manifest["supervised_tokens"]
        sizes = {IDS: 4 * self.tokens, MASK: -(-self.tokens // 8), OFFSETS: 8 * (len(self) + 1)}
        for name, size in sizes.items():
            path = self.folder / name
            found = path.stat().st_size if path.is_file() else 0
            if found != size:
                raise DataError(f"{path}: {found} bytes, but by {MANIFEST} it has {size}; write the sequences again")
        self._ids = np.memmap(self.folder / IDS, "<i4", "r")
        self._mask = np.memmap(self.folder / MASK, "u1", "r")
        self._offsets = np.memmap(self.folder / OFFSETS, "<i8", "r")
        if verify:
            self.verify()

    def __len__(self) -> int:
        return int(self._manifest["sequences"])

    @overload
    def __getitem__(self, index: int) -> TrainingSequence: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrainingSequence]: ...
    def __getitem__(self, index: int | slice) -> TrainingSequence | list[TrainingSequence]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start, end = int(self._offsets[place]), int(self._offsets[place + 1])
        bits = np.unpackbits(self._mask[start // 8 : -(-end // 8)], bitorder="little")[start % 8 :][: end - start]
        return TrainingSequence(tuple(self._ids[start:end].tolist()), tuple(bits.astype(bool).tolist()))

    def __iter__(self) -> Iterator[TrainingSequence]:
        """Reads block by block instead of through the maps: a whole pass leaves none of the file's pages behind."""
        for first, last in self._blocks():
            starts = self._offsets[first : last + 1].tolist()
            ids, mask = self._read(IDS, starts[0], starts[-1]).tolist(), self._read_mask(starts[0], starts[-1])
            supervised = mask.astype(bool).tolist()
            for start, end in pairwise(starts):
                place = slice(start - starts[0], end - starts[0])
                yield TrainingSequence(tuple(ids[place]), tuple(supervised[place]))

    def lengths(self) -> Sequence[int]:
        """Tokens of each sequence."""
        return self._lengths

    def supervised_counts(self) -> Sequence[int]:
        """Of each sequence the supervised tokens that something stands before."""
        return self._counts

    def content_digest(self) -> str:
        """sha256 over ids and masks in order, as they were written."""
        return str(self._manifest["digest"])

    def verify(self) -> None:
        """Reads everything. Raises DataError where it is not what was written."""
        digest = hashlib.sha256()
        for sequence in self:
            digest.update(sequence_bytes(sequence))
        supervised = sum(self.supervised_counts())
        if digest.hexdigest() != self.content_digest() or supervised != self.supervised_tokens:
            raise DataError(f"{self.folder}: the sequences are not those of {MANIFEST}; write them again")

    @cached_property
    def _lengths(self) -> array[int]:
        lengths, whole = array("i"), self._offsets[0] == 0 and self._offsets[-1] == self.tokens
        for first in range(0, len(self), BLOCK_TOKENS):
            found = np.diff(self._offsets[first : first + BLOCK_TOKENS + 1])
            whole = whole and not (found < 0).any()
            lengths.frombytes(found.astype(np.int32).tobytes())
        if not whole:
            raise DataError(f"{self.folder / OFFSETS}: it does not cut {self.tokens} tokens; write the sequences again")
        return lengths

    @cached_property
    def _counts(self) -> array[int]:
        counts = array("i")
        for first, last in self._blocks():
            starts = self._offsets[first : last + 1] - self._offsets[first]
            mask = self._read_mask(int(self._offsets[first]), int(self._offsets[last]))
            mask[starts[:-1][starts[:-1] < starts[1:]]] = 0  # nothing stands before a first token
            before = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])[starts]
            counts.frombytes(np.diff(before).astype(np.int32).tobytes())
        return counts

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """[first, last) of sequences that together hold at most `BLOCK_TOKENS`, or of one that holds more."""
        lengths, first = self._lengths, 0
        while first < len(lengths):
            last, tokens = first + 1, lengths[first]
            while last < len(lengths) and tokens + lengths[last] <= BLOCK_TOKENS:
                tokens += lengths[last]
                last += 1
            yield first, last
            first = last

    def _read(self, name: str, start: int, end: int) -> Any:
        kind = {IDS: "<i4", MASK: "u1"}[name]
        return np.fromfile(self.folder / name, kind, end - start, offset=start * np.dtype(kind).itemsize)

    def _read_mask(self, start: int, end: int) -> Any:
        """[tokens] of 0 and 1."""
        bits = np.unpackbits(self._read(MASK, start // 8, -(-end // 8)), bitorder="little")
        return bits[start % 8 :][: end - start].copy()


def write_sequences(folder: Path | str, sequences: Iterable[TrainingSequence]) -> SequenceFile:
    """Writes sequences as they come, so that a generator never has to hold them all, and opens what was written.

    They are written beside the folder, which is put in place at the end: whole or not there, whenever the process is
    killed. A folder that holds sequences already is replaced.

    Raises:
        DataError: the folder holds something else; there is nothing to write; a sequence has not one mark a token, or
            an id of more than 32 bits.
    """
    folder = Path(folder)
    _check_place(folder)
    partial, before = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        manifest = _write(partial, sequences)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(before)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)
    return SequenceFile(folder)


def _check_place(folder: Path) -> None:
    """Nothing but sequences is ever written over."""
    if not folder.exists():
        return
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if not there or there == {IDS, MASK, OFFSETS, MANIFEST}:
        return
    raise DataError(f"{folder} holds something else than sequences: give a new folder")


def _write(folder: Path, sequences: Iterable[TrainingSequence]) -> dict[str, Any]:
    """The three arrays; gives what the manifest says of them."""
    digest, count, tokens, supervised = hashlib.sha256(), 0, 0, 0
    ids, mask, offsets = array("i"), bytearray(), array("q", [0])
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in (IDS, MASK, OFFSETS)}

        def flush(bits: int) -> None:
            files[IDS].write(np.asarray(ids).astype("<i4").tobytes())
            files[OFFSETS].write(np.asarray(offsets).astype("<i8").tobytes())
            files[MASK].write(np.packbits(np.frombuffer(mask[:bits], np.uint8), bitorder="little").tobytes())
            del ids[:], offsets[:], mask[:bits]

        for sequence in sequences:
            _add(ids, mask, sequence, count)
            digest.update(sequence_bytes(sequence))
            count, tokens = count + 1, tokens + len(sequence.token_ids)
            supervised += sum(sequence.supervised[1:])
            offsets.append(tokens)
            if len(ids) + len(offsets) >= BLOCK_TOKENS:
                flush(len(mask) // 8 * 8)
        flush(len(mask))
    if not tokens:
        raise DataError(f"{count} sequences without a token: there is nothing to write")
    amounts = {"sequences": count, "tokens": tokens, "supervised_tokens": supervised}
    return {"format": FORMAT, "digest": digest.hexdigest(), **amounts}


def _add(ids: array[int], mask: bytearray, sequence: TrainingSequence, number: int) -> None:
    marks = len(sequence.supervised)
    if marks != len(sequence.token_ids):
        raise DataError(f"sequence {number}: {len(sequence.token_ids)} tokens with {marks} marks; give one a token")
    try:
        ids.extend(sequence.token_ids)
    except OverflowError:
        raise DataError(f"sequence {number}: a token id of more than 32 bits") from None
    mask.extend(sequence.supervised)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        amounts = [found[name] for name in ("sequences", "tokens", "supervised_tokens")]
        counted = all(type(amount) is int and amount >= 0 for amount in amounts)
        if found["format"] == FORMAT and counted and isinstance(found["digest"], str):
            return dict(found)
    except OSError as error:
        raise DataError(f"{folder} holds no sequences: {MANIFEST} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        pass  # it is not one of ours, as is said below
    raise DataError(f"{path} does not tell of sequences in format {FORMAT}; write them again")
