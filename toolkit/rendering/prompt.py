"""Prompt and TrainingSequence: token ids with their story."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from toolkit.tasks.messages import Message


@dataclass(frozen=True)
class Prompt:
    """What is sent for one example.

    Attributes:
        messages: the conversation.
        token_ids: of the whole prompt, the opening of the answer's turn included; None for a hosted model.
        tokens_by_origin: how many of them came from demonstrations, passages, later turns and the rest (`question`),
            found by rendering with and without.
        digest: sha256 of what is sent.
    """

    messages: tuple[Message, ...]
    token_ids: tuple[int, ...] | None
    tokens_by_origin: Mapping[str, int]
    digest: str


@dataclass(frozen=True)
class TrainingSequence:
    """Token ids [T] and which of them are supervised [T]: the answer's and its stop token; of raw text, all but the
    first."""

    token_ids: tuple[int, ...]
    supervised: tuple[bool, ...]


class Preference(NamedTuple):
    """Two answers to one prompt, of which the first is to be preferred."""

    chosen: TrainingSequence
    rejected: TrainingSequence
