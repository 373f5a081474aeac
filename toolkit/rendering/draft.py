"""Draft: what has been assembled for one example before any text exists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pydantic import JsonValue

from toolkit.rendering.template import Template
from toolkit.tasks.contract import AnswerContract, target_text
from toolkit.tasks.example import Example
from toolkit.tasks.messages import Message

NOTHING = "N/A"
"""The input without content of Zhao et al. 2021, Calibrate Before Use."""


@dataclass(frozen=True)
class Passage:
    """Retrieved text: half-open characters [start, end) of a document, best rank first (rank 1)."""

    document: str
    start: int
    end: int
    text: str
    score: float = 0.0
    rank: int = 1


@dataclass(frozen=True)
class Draft:
    """One example on its way to a prompt.

    Attributes:
        example: unlabelled when answering.
        template: turns the draft into messages.
        contract: states and writes answers.
        demonstrations: labelled examples, shown in this order.
        best_last: the demonstrations are ordered by worth, so that the first is given up first.
        passages: best first.
        turns: what was said after the question (tool results, a draft answer to improve).
        dropped: passages that did not fit the context, then demonstrations (as their ids).
    """

    example: Example
    template: Template
    contract: AnswerContract
    demonstrations: tuple[Example, ...] = ()
    passages: tuple[Passage, ...] = ()
    turns: tuple[Message, ...] = ()
    dropped_passages: tuple[Passage, ...] = ()
    dropped_demonstrations: tuple[str, ...] = ()
    best_last: bool = False

    def with_demonstrations(self, examples: Sequence[Example], best_last: bool = False) -> Draft:
        shown = (*self.demonstrations, *examples)
        return replace(self, demonstrations=shown, best_last=best_last or self.best_last)

    def with_passages(self, passages: Sequence[Passage]) -> Draft:
        return replace(self, passages=(*self.passages, *passages))

    def with_turns(self, turns: Sequence[Message]) -> Draft:
        return replace(self, turns=(*self.turns, *turns))

    def without_passages(self) -> Draft:
        return replace(self, passages=())

    def without_demonstrations(self) -> Draft:
        return replace(self, demonstrations=())

    def content_free(self) -> Draft:
        """The same draft about nothing: every value of the inputs is `N/A`, and no passages or later turns are left."""
        inputs = {name: _blank(value) for name, value in self.example.inputs.items()}
        return replace(self, example=replace(self.example, inputs=inputs), passages=(), turns=())

    def shortened(self) -> Draft | None:
        """The same draft with its last passage, else its last demonstration (or the first, where the best stands last),
        dropped; None when nothing can go.
        """
        if self.passages:
            dropped = (self.passages[-1], *self.dropped_passages)
            return replace(self, passages=self.passages[:-1], dropped_passages=dropped)
        if self.demonstrations:
            if self.best_last:
                gone, *kept = self.demonstrations
                names = (*self.dropped_demonstrations, gone.id)
            else:
                *kept, gone = self.demonstrations
                names = (gone.id, *self.dropped_demonstrations)
            return replace(self, demonstrations=tuple(kept), dropped_demonstrations=names)
        return None

    def messages(self) -> tuple[Message, ...]:
        """System, demonstrations as turns, the question behind its passages, later turns."""
        return self._messages

    @cached_property
    def _messages(self) -> tuple[Message, ...]:
        values = {"instruction": self.contract.instruction, "labels": self.contract.labels}
        said = [Message("system", self.template.render("system", values).strip())]
        for shown in self.demonstrations:
            said.append(Message("user", self._user(shown)))
            said.append(Message("assistant", target_text(self.contract, shown)))
        slot = ""
        if self.passages:
            slot = self.template.render("passages", {"passages": self.passages, "inputs": self.example.inputs})
        said.append(Message("user", slot + self._user(self.example)))
        return (*said, *self.turns)

    def _user(self, example: Example) -> str:
        values = {"inputs": example.inputs, "labels": self.contract.labels}
        return self.template.render("user", values).strip()


def _blank(value: JsonValue) -> JsonValue:
    """The value with its shape kept, so that a template that walks through it still can."""
    if isinstance(value, dict):
        return {name: _blank(item) for name, item in value.items()}
    return [_blank(item) for item in value] if isinstance(value, list) else NOTHING
