"""AnswerContract: what an answer looks like as text, and how text is read back.

The task owns it. What a trainer teaches, what a demonstration shows and what the parser accepts are therefore one
thing. Law, checked on every row as a task is loaded: `read(write(answer)) == answer`.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from toolkit.errors import DataError, nearest
from toolkit.tasks.example import Answer, Example
from toolkit.tasks.problems import excerpt


class Unread(enum.Enum):
    """Readings that are not answers."""

    ABSTAIN = "abstained"
    UNPARSABLE = "unparsable"


ABSTAIN = Unread.ABSTAIN
UNPARSABLE = Unread.UNPARSABLE
Reading = Answer | Unread
Kind = Literal["choice", "text", "json"]


class AnswerContract(Protocol):
    """How answers are written, read and asked for."""

    @property
    def kind(self) -> Kind: ...

    @property
    def abstention(self) -> str | None:
        """The phrase that says "there is no answer"; None where a task has no such answer."""

    @property
    def instruction(self) -> str:
        """The sentence that states the contract to every strategy alike."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The closed set of answers, or () where answers are open."""

    def write(self, answer: Answer) -> str:
        """The text of an answer. Raises DataError for an answer outside the contract."""

    def read(self, text: str) -> Reading:
        """The answer a text gives, ABSTAIN or UNPARSABLE. Never raises."""


def law_problem(contract: AnswerContract, answer: Answer) -> str:
    """Why an answer is not read back as it was written; empty where it is."""
    if problem := writing_problem(contract, answer):
        return problem
    text = contract.write(answer)
    read = contract.read(text)
    if read == answer:
        return ""
    return f"the target {excerpt(answer)} is written as {excerpt(text)} and read back as {said_as(read)}"


def writing_problem(contract: AnswerContract, answer: Answer) -> str:
    """Why an answer cannot be written; empty where it can."""
    try:
        contract.write(answer)
    except DataError as error:
        return str(error)
    return ""


def said_as(read: Reading) -> str:
    """A reading in words."""
    return read.value if isinstance(read, Unread) else excerpt(read)


def target_text(contract: AnswerContract, example: Example) -> str:
    """What is trained and shown for a labelled example: its first target, or the abstention phrase for none.

    Raises:
        DataError: the example has no targets, or is empty-handed under a contract that cannot abstain.
    """
    if example.targets is None:
        raise DataError(f"example '{example.id}' has unknown targets, so it cannot be trained on or shown")
    if example.targets:
        return contract.write(example.targets[0])
    if contract.abstention is None:
        raise DataError(
            f"example '{example.id}' has no right answer, and its task names no abstention phrase: add `abstention:`"
        )
    return contract.abstention


def choices_of(contract: AnswerContract, example: Example) -> tuple[str, ...]:
    """The labels an example chooses from: its own, or the task's."""
    return example.choices if example.choices is not None else contract.labels


def _unfenced(text: str) -> str:
    """The inside of a Markdown code fence, where the text is one."""
    lines = text.strip().splitlines()
    fenced = len(lines) > 2 and lines[0].startswith("```") and lines[-1].strip() == "```"
    return "\n".join(lines[1:-1]) if fenced else text


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(" .!").casefold()


@dataclass(frozen=True)
class ChoiceContract:
    """One of a closed set of labels; `written` says how each label is spelt for the model (default: as it is)."""

    labels: tuple[str, ...]
    written: Mapping[str, str] = field(default_factory=dict)
    question: str = "Answer with exactly one of these labels"
    abstention: str | None = None
    kind: Kind = "choice"

    def __post_init__(self) -> None:
        texts = [_plain(self.written.get(label, label)) for label in self.labels]
        if not all(texts):
            raise DataError(
                "a label is written as nothing, which no model can be asked for: name it under `labels.write`"
            )
        if len(set(texts)) != len(texts):
            twice = sorted({text for text in texts if texts.count(text) > 1})
            raise DataError(f"two labels are written alike: {', '.join(twice)}")
        if self.abstention is not None and _plain(self.abstention) in texts:
            raise DataError(f"the abstention phrase '{self.abstention}' is also a label: choose another phrase")
        if unknown := set(self.written) - set(self.labels):
            raise DataError(f"`labels.write` names labels the task does not have: {', '.join(sorted(unknown))}")

    @property
    def instruction(self) -> str:
        listed = f"{self.question}: {', '.join(self.write(label) for label in self.labels)}."
        return listed if self.abstention is None else f"{listed} If none fits, reply: {self.abstention}"

    def write(self, answer: Answer) -> str:
        if not isinstance(answer, str) or answer not in self.labels:
            raise DataError(f"'{answer}' is not one of the task's labels{nearest(str(answer), self.labels)}")
        return self.written.get(answer, answer)

    def read(self, text: str) -> Reading:
        first = text.strip().splitlines()[0] if text.strip() else ""
        wanted = _plain(first)
        if self.abstention is not None and wanted == _plain(self.abstention):
            return ABSTAIN
        for label in self.labels:
            if _plain(self.written.get(label, label)) == wanted:
                return label
        return UNPARSABLE


@dataclass(frozen=True)
class TextContract:
    """A short text on one line, or the abstention phrase."""

    abstention: str | None = None
    question: str = "Answer with a few words only."
    kind: Kind = "text"
    labels: tuple[str, ...] = ()

    @property
    def instruction(self) -> str:
        if self.abstention is None:
            return self.question
        return f"{self.question} If you do not know the answer, reply: {self.abstention}"

    def write(self, answer: Answer) -> str:
        if not isinstance(answer, str) or not answer.strip():
            raise DataError(f"a text answer must be a non-empty text, found {answer!r}")
        return answer

    def read(self, text: str) -> Reading:
        lines = text.strip().splitlines()
        if not lines:
            return UNPARSABLE
        first = lines[0].strip()
        if self.abstention is not None and _plain(first) == _plain(self.abstention):
            return ABSTAIN
        return first


@dataclass(frozen=True)
class JsonContract:
    """One JSON value, written with sorted keys; an object or array is also found inside other text."""

    required: tuple[str, ...] = ()
    question: str = "Answer with one JSON value and nothing else."
    abstention: str | None = None
    kind: Kind = "json"
    labels: tuple[str, ...] = ()

    @property
    def instruction(self) -> str:
        keys = f" Keys: {', '.join(self.required)}." if self.required else ""
        asked = f"{self.question}{keys}"
        return asked if self.abstention is None else f"{asked} If you do not know the answer, reply: {self.abstention}"

    def write(self, answer: Answer) -> str:
        missing = self._missing(answer)
        if missing:
            raise DataError(f"the answer {json.dumps(answer)} lacks the keys {', '.join(missing)}")
        return json.dumps(answer, ensure_ascii=False, sort_keys=True)

    def read(self, text: str) -> Reading:
        if self.abstention is not None and _plain(text) == _plain(self.abstention):
            return ABSTAIN
        try:
            return self._kept(json.loads(_unfenced(text)))
        except (ValueError, RecursionError):
            pass  # not the whole text: an object or array may stand in it
        decoder = json.JSONDecoder()
        for start in (place for place, character in enumerate(text) if character in "{["):
            try:
                value, _ = decoder.raw_decode(text[start:])
            except ValueError:
                continue
            except RecursionError:  # a model that repeats opening brackets
                return UNPARSABLE
            if not self._missing(value):
                return self._kept(value)
        return UNPARSABLE

    def _kept(self, answer: Answer) -> Reading:
        return UNPARSABLE if self._missing(answer) or not is_text(answer) else answer

    def _missing(self, answer: Answer) -> Sequence[str]:
        if not self.required:
            return ()
        keys = set(answer) if isinstance(answer, dict) else set()
        return [key for key in self.required if key not in keys]


def is_text(answer: object) -> bool:
    """Whether a value of JSON can be written down: JSON may spell half of a surrogate pair, which is no text."""
    try:
        json.dumps(answer, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
