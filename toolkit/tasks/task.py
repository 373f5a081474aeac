"""Task: named examples in three splits, an optional corpus, an answer contract, metrics with one primary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Literal

from toolkit.tasks.contract import AnswerContract
from toolkit.tasks.example import Example

Split = Literal["train", "validation", "test"]
FittingSplit = Literal["train", "validation"]


@dataclass(frozen=True)
class TrainingTask:
    """What fitting may see of a task: everything but the test split.

    Attributes:
        name: the task's name.
        contract: how answers are written and read.
        train, validation: the examples.
        corpus: the folder (or jsonl file) of documents; None for a task without.
        metrics: names; the first is the primary one.
        shared_groups: why groups may appear in several splits; None where they may not.
    """

    name: str
    contract: AnswerContract
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    corpus: Path | None
    metrics: tuple[str, ...]
    shared_groups: str | None

    def split(self, name: FittingSplit) -> tuple[Example, ...]:
        return self.train if name == "train" else self.validation

    @cached_property
    def training_digest(self) -> str:
        """Of the contract, train and validation: what a fitted part depends on."""
        return _digest([repr(self.contract), examples_digest(self.train), examples_digest(self.validation)])


@dataclass(frozen=True)
class Task(TrainingTask):
    """A whole task, with its test split."""

    test: tuple[Example, ...]

    def without_test(self) -> TrainingTask:
        """The task as fitting sees it: tuning on test is impossible by type."""
        return TrainingTask(**{item.name: getattr(self, item.name) for item in fields(TrainingTask)})

    @cached_property
    def test_digest(self) -> str:
        """Of the test split: scorings of the test set are counted under it."""
        return examples_digest(self.test)

    @cached_property
    def digest(self) -> str:
        return _digest([self.training_digest, self.test_digest, *self.metrics])


def examples_digest(examples: Iterable[Example]) -> str:
    """sha256 over the examples' content, in order."""
    return _digest(json.dumps(asdict(example), sort_keys=True, ensure_ascii=False) for example in examples)


def _digest(texts: Iterable[str]) -> str:
    state = hashlib.sha256()
    for text in texts:
        state.update(text.encode())
        state.update(b"\x00")
    return state.hexdigest()
