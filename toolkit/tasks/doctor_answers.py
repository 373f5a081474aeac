"""Answers: the contract's law on every target, and labels that nothing teaches or nothing tests."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.errors import DataError
from toolkit.tasks.contract import ABSTAIN, Unread
from toolkit.tasks.examination import Finding, Subject
from toolkit.tasks.example import Answer
from toolkit.tasks.problems import excerpt
from toolkit.tasks.task import Split

_TAUGHT_AND_TESTED: tuple[Split, ...] = ("train", "test")


def unread_answers(subject: Subject) -> Iterator[Finding]:
    """Targets, and the abstention phrase, that do not come back when written and read."""
    abstention = subject.task.contract.abstention
    if abstention is not None and (read := subject.task.contract.read(abstention)) is not ABSTAIN:
        message = f"the abstention phrase {abstention!r} is read back as {_said(read)}, not as abstaining"
        yield Finding("error", f"task '{subject.task.name}'", message)
    for example in subject.examples:
        for target in example.targets or ():
            problem = _law(subject, target)
            if problem:
                yield Finding("error", subject.where(example), problem)


def missing_labels(subject: Subject) -> Iterator[Finding]:
    """Labels without an example in train or in test."""
    for split in _TAUGHT_AND_TESTED:
        used = {target for example in subject.split(split) for target in example.targets or () if _is_text(target)}
        for label in subject.task.contract.labels:
            if label not in used:
                yield Finding("error", split, f"no example has the label '{label}'")


def _law(subject: Subject, target: Answer) -> str:
    try:
        text = subject.task.contract.write(target)
    except DataError as error:
        return str(error)
    read = subject.task.contract.read(text)
    if read == target:
        return ""
    return f"the target {excerpt(target)} is written as {excerpt(text)} and read back as {_said(read)}"


def _said(read: Answer | Unread) -> str:
    return read.value if isinstance(read, Unread) else excerpt(read)


def _is_text(target: Answer) -> bool:
    return isinstance(target, str)
