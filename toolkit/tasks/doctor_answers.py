"""Answers: the phrase to abstain with, and labels that nothing teaches or nothing tests."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.tasks.contract import ABSTAIN, said_as
from toolkit.tasks.examination import Finding, Subject
from toolkit.tasks.example import Answer
from toolkit.tasks.task import Split

_TAUGHT_AND_TESTED: tuple[Split, ...] = ("train", "test")


def unread_abstention(subject: Subject) -> Iterator[Finding]:
    """An abstention phrase that does not come back as abstaining; targets are checked when a task is loaded."""
    abstention = subject.task.contract.abstention
    if abstention is not None and (read := subject.task.contract.read(abstention)) is not ABSTAIN:
        message = f"the abstention phrase {abstention!r} is read back as {said_as(read)}, not as abstaining"
        yield Finding("error", f"task '{subject.task.name}'", message)


def missing_labels(subject: Subject) -> Iterator[Finding]:
    """Labels without an example in train or in test."""
    for split in _TAUGHT_AND_TESTED:
        used = {target for example in subject.split(split) for target in example.targets or () if _is_text(target)}
        for label in subject.task.contract.labels:
            if label not in used:
                yield Finding("error", split, f"no example has the label '{label}'")


def _is_text(target: Answer) -> bool:
    return isinstance(target, str)
