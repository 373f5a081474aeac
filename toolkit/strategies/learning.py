"""What tuning learns of a task: answers, preferences between answers, or the corpus as raw text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from toolkit.errors import DataError, FairnessError, listing
from toolkit.rendering import Draft, TrainingSequence
from toolkit.rendering.prompt import Preference
from toolkit.strategies.adapter import FitContext
from toolkit.tasks.contract import target_text
from toolkit.tasks.example import Example
from toolkit.tasks.task import TrainingTask

Learn = Literal["answers", "preferences", "corpus"]

SHOWN_PROBLEMS = 5
WINDOW_TOKENS = 512
"""Of raw text, unless the model's context is shorter: enough to learn facts from, and what lies further apart is rare
in the documents of a small corpus."""


@dataclass(frozen=True)
class Lessons:
    """What is learnt, what errors call each of it, and the ids that end an answer: none in raw text."""

    items: Sequence[TrainingSequence] | Sequence[Preference]
    names: tuple[str, ...]
    stop: tuple[int, ...]


def lessons(context: FitContext, learn: Learn, window_tokens: int | Literal["auto"]) -> Lessons:
    """What the train split or the corpus teaches, on the drafts that the parts before build.

    Raises:
        DataError: there is nothing of the kind, or it cannot be read.
        FairnessError: a sequence does not begin with exactly what is sent when asking, or learns some of it.
    """
    if learn == "corpus":
        return _corpus(context, window_tokens)
    context.meter.event("drafts", examples=len(context.task.train))
    return (_answers if learn == "answers" else _preferences)(context)


def problems(task: TrainingTask, learn: Learn) -> list[str]:
    """Why a task has nothing of the kind."""
    if learn == "corpus":
        missing = f"task '{task.name}' has no corpus to learn: add a `corpus/` folder or `corpus:`"
        return [missing] if task.corpus is None else []
    if not task.train:
        return ["there is nothing to train on: train is empty"]
    if learn == "preferences" and not any(example.rejected for example in task.train):
        return ["no example of train has `rejected` answers, so none is preferred to another; learn `answers`"]
    return []


def _answers(context: FitContext) -> Lessons:
    found: dict[str, TrainingSequence] = {}
    faults: list[str] = []
    for example, draft in context.drafts("train"):
        sequence = _taught(context, example, draft, target_text(context.task.contract, example), faults)
        found[f"example '{example.id}'"] = sequence
    _refuse(faults)
    return Lessons(list(found.values()), tuple(found), context.renderer.stop)


def _preferences(context: FitContext) -> Lessons:
    """The example's answer against each that it rejects."""
    found: dict[str, Preference] = {}
    faults: list[str] = []
    without = 0
    for example, draft in context.drafts("train"):
        chosen = _taught(context, example, draft, target_text(context.task.contract, example), faults)
        for number, answer in enumerate(example.rejected, start=1):
            rejected = _taught(context, example, draft, context.task.contract.write(answer), faults)
            found[f"example '{example.id}', rejected answer {number}"] = Preference(chosen, rejected)
        without += not example.rejected
    _refuse(faults)
    if without:
        context.meter.event("notice", text=f"tune: {without} examples of train reject no answer and are left out")
    return Lessons(list(found.values()), tuple(found), context.renderer.stop)


def _taught(context: FitContext, example: Example, draft: Draft, answer: str, faults: list[str]) -> TrainingSequence:
    """A training sequence, with what is wrong with it added to the faults."""
    sequence = context.renderer.training_sequence(draft, answer)
    prompt = context.renderer.prompt(draft).token_ids or ()
    if sequence.token_ids[: len(prompt)] != prompt:
        faults.append(f"example '{example.id}': its training ids do not start with its prompt's {len(prompt)}")
    elif learnt := sum(sequence.supervised[: len(prompt)]):
        faults.append(f"example '{example.id}': {learnt} tokens of its prompt are supervised")
    return sequence


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        more = [f"and {len(faults) - SHOWN_PROBLEMS} more"] if len(faults) > SHOWN_PROBLEMS else []
        heading = "training would not match asking; make both with the same `Renderer`"
        raise FairnessError(listing([*faults[:SHOWN_PROBLEMS], *more], heading))


def _corpus(context: FitContext, window_tokens: int | Literal["auto"]) -> Lessons:
    """The corpus's documents in windows.

    Raises:
        DataError: there is no corpus or it cannot be read, a document has nothing to learn, or windows are longer than
            the model's context.
    """
    from toolkit.retrieval import read_corpus

    if context.task.corpus is None:
        raise DataError(f"task '{context.task.name}' has no corpus to learn")
    documents = read_corpus(context.task.corpus)
    context.meter.event("texts", documents=len(documents))
    length = _window_tokens(context, window_tokens)
    windows = context.renderer.text_sequences([document.text for document in documents], length)
    return Lessons(windows, tuple(f"window {number}" for number in range(len(windows))), ())


def _window_tokens(context: FitContext, wanted: int | Literal["auto"]) -> int:
    room = context.model.context_tokens
    if wanted == "auto":
        return WINDOW_TOKENS if room is None else min(WINDOW_TOKENS, room)
    if room is not None and wanted > room:
        raise DataError(f"window_tokens: {wanted}, but the context of '{context.model.name}' is {room}; lower it")
    return wanted
