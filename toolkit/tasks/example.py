"""Example: one item of a task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from pydantic import JsonValue

Answer = JsonValue
"""What a task asks for: a label or a text (str), or any JSON value."""


@dataclass(frozen=True)
class Span:
    """Half-open characters [start, end) of a document's original text."""

    document: str
    start: int
    end: int


@dataclass(frozen=True)
class Example:
    """One item.

    Attributes:
        id: unique within the task.
        inputs: named values shown to the model.
        targets: accepted answers, the first is the one trained and shown. Empty: the right answer is to abstain.
            None: unknown.
        choices: the item's own choices; None where the task's labels hold.
        group: the source shared with other items (document, conversation, author): the cluster of the statistics.
        spans: where the gold answer stands in the corpus.
        slices: named subsets the item belongs to.
        rejected: answers known to be worse than the targets (preferences).
    """

    id: str
    inputs: Mapping[str, JsonValue]
    targets: tuple[Answer, ...] | None = None
    choices: tuple[str, ...] | None = None
    group: str | None = None
    spans: tuple[Span, ...] = ()
    slices: tuple[str, ...] = ()
    rejected: tuple[Answer, ...] = ()

    def unlabelled(self, keep_spans: bool = False) -> Example:
        """The item without targets, rejected answers, slices and (unless a control asks for them) gold spans."""
        return replace(self, targets=None, spans=self.spans if keep_spans else (), rejected=(), slices=())

    @property
    def cluster(self) -> str:
        """The group, or the item itself where it shares its source with nobody."""
        return self.group if self.group is not None else self.id

    @cached_property
    def content_digest(self) -> str:
        """Of the inputs alone: equal for the same question under another id."""
        canonical = json.dumps(dict(self.inputs), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()
