"""What a training must know of all its sequences before the first step: how long, how much to learn, which.

A list is walked for it. Sequences that do not fit into memory may know it themselves: whatever has the three methods of
`Measured` is asked instead.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from toolkit.rendering.prompt import TrainingSequence


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
    return [sum(sequence.supervised[1:]) for sequence in sequences]


def content_digest(sequences: Sequence[TrainingSequence]) -> str:
    """sha256 over ids and masks in order: the same for a list and for a file of the same sequences."""
    if isinstance(sequences, Measured):
        return sequences.content_digest()
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(sequence_bytes(sequence))
    return digest.hexdigest()


def sequence_bytes(sequence: TrainingSequence) -> bytes:
    """A sequence for its digest; the length in front keeps neighbours apart."""
    size = len(sequence.token_ids)
    return size.to_bytes(8, "little") + array("q", sequence.token_ids).tobytes() + bytes(sequence.supervised)
