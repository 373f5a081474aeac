"""What a training must know of all its sequences before the first step: how long, how much to learn, which.

A list is walked for it. Sequences that do not fit into memory may know it themselves: whatever has the three methods of
`Measured` is asked instead.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from toolkit.rendering.prompt import Preference, TrainingSequence

Item = TrainingSequence | Preference
"""What one row of a training is: all are of the one kind or of the other."""


@runtime_checkable
class Measured(Protocol):
    """Sequences that know their amounts without being read one by one."""

    def lengths(self) -> Sequence[int]:
        """Tokens of each sequence."""

    def supervised_counts(self) -> Sequence[int]:
        """Of each sequence the supervised tokens that something stands before."""

    def content_digest(self) -> str:
        """`content_digest` of the sequences in their order."""


def lengths(sequences: Sequence[TrainingSequence]) -> Sequence[int]:
    """Tokens of each sequence."""
    if isinstance(sequences, Measured):
        return sequences.lengths()
    return [len(sequence.token_ids) for sequence in sequences]


def supervised_counts(sequences: Sequence[TrainingSequence]) -> Sequence[int]:
    """Of each sequence the supervised tokens that can be predicted, as something stands before them."""
    if isinstance(sequences, Measured):
        return sequences.supervised_counts()
    return [supervised_count(sequence) for sequence in sequences]


def supervised_count(sequence: TrainingSequence) -> int:
    """Supervised tokens that something stands before, so that they can be predicted."""
    return sum(sequence.supervised[1:])


def content_digest(items: Sequence[Item]) -> str:
    """sha256 over ids and masks in order: the same for a list and for a file of the same sequences."""
    if isinstance(items, Measured):
        return items.content_digest()
    digest = hashlib.sha256()
    for item in items:
        if isinstance(item, Preference):
            digest.update(b"preference" + sequence_bytes(item.chosen) + sequence_bytes(item.rejected))
        else:
            digest.update(sequence_bytes(item))
    return digest.hexdigest()


def sequence_bytes(sequence: TrainingSequence) -> bytes:
    """A sequence for its digest; the length in front keeps neighbours apart."""
    size = len(sequence.token_ids)
    return size.to_bytes(8, "little") + array("q", sequence.token_ids).tobytes() + bytes(sequence.supervised)
