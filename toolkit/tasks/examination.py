"""What the doctor looks at, and what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from toolkit.tasks.assemble import SPLITS
from toolkit.tasks.example import Example
from toolkit.tasks.messages import Message
from toolkit.tasks.task import Split, Task

Severity = Literal["error", "note"]


class ChatFormat(Protocol):
    """What the doctor asks of a model's chat format (`toolkit.rendering.chat.Chat` has it)."""

    @property
    def tokenizer(self) -> Any: ...

    def token_ids(self, messages: Sequence[Message], opens_answer: bool) -> list[int]: ...

    def control_tokens_in(self, text: str) -> list[str]: ...


class Tokens(Protocol):
    """What the doctor asks of a renderer (`toolkit.rendering.Renderer` has it); `chat` is None for a hosted model."""

    @property
    def chat(self) -> ChatFormat | None: ...

    def count(self, text: str) -> int: ...


@dataclass(frozen=True)
class Finding:
    """One thing found: an error stands in the way of a fair run, a note is to be known. `where` is `file:line`."""

    severity: Severity
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Percentiles:
    """Lengths by nearest rank, in the unit of the statistics."""

    p50: int
    p95: int
    p100: int


@dataclass(frozen=True)
class SplitStatistics:
    """One split in figures.

    Attributes:
        examples, groups: how many; an example without a group is its own.
        unanswerable: the share whose right answer is to abstain.
        labels: label -> examples, in the contract's order; empty for open answers.
        inputs, answers: lengths.
    """

    examples: int
    groups: int
    unanswerable: float
    labels: Mapping[str, int]
    inputs: Percentiles
    answers: Percentiles


@dataclass(frozen=True)
class Statistics:
    """A task in figures; lengths count `unit`."""

    unit: Literal["tokens", "words"]
    splits: Mapping[Split, SplitStatistics]


@dataclass(frozen=True)
class Examination:
    """Everything the doctor says about a task."""

    findings: tuple[Finding, ...]
    statistics: Statistics

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def notes(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "note")


@dataclass(frozen=True)
class Subject:
    """A task with what is needed to look into it.

    Attributes:
        sources: example id -> `file:line`.
        documents: (id, text) of the corpus; None where it was not read.
        renderer: of the model; None where there is none.
    """

    task: Task
    sources: Mapping[str, str]
    documents: Sequence[tuple[str, str]] | None
    renderer: Tokens | None

    def split(self, name: Split) -> tuple[Example, ...]:
        return self.task.test if name == "test" else self.task.split(name)

    @cached_property
    def everything(self) -> tuple[tuple[Split, Example], ...]:
        """Every example with its split: train, validation, test."""
        return tuple((split, example) for split in SPLITS for example in self.split(split))

    @property
    def examples(self) -> Iterator[Example]:
        return (example for _, example in self.everything)

    def where(self, example: Example) -> str:
        return self.sources.get(example.id, f"example '{example.id}'")

    @property
    def chat(self) -> ChatFormat | None:
        return None if self.renderer is None else self.renderer.chat
