"""Lessons that never lie in memory all at once: written to the work folder as they are made, and read from there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

from toolkit.rendering import TrainingSequence
from toolkit.tuning.sequence_file import SequenceFile, write_sequences

FOLDER = "sequences"


class Numbered(Sequence[str]):
    """Names that are made when they are asked for: a word, and of each its number."""

    def __init__(self, word: str, numbers: Sequence[int]) -> None:
        self._word = word
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [f"{self._word}{number}" for number in self._numbers[index]]
        return f"{self._word}{self._numbers[index]}"


def streamed(work: Path, sequences: Iterable[TrainingSequence]) -> SequenceFile:
    """The sequences on disk, in a work folder that one process at a time uses.

    They are written again by every process, also where one that was killed had written them: the same sequences have
    the same digest, by which a training knows its checkpoint. What a process killed while writing left goes first.

    Raises:
        DataError: whatever is wrong with what the sequences are made of.
        OSError: the disk is full.
    """
    for left in work.glob(f".{FOLDER}.*"):
        shutil.rmtree(left, ignore_errors=True)
    return write_sequences(work / FOLDER, sequences)
