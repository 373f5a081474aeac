"""What tuning learns: a task's answers, preferences between answers, its corpus as raw text; or conversations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import DataError, FairnessError, listing
from toolkit.inference.model import FoundationModel
from toolkit.rendering import Draft, Template, TrainingSequence
from toolkit.rendering.prompt import Preference
from toolkit.rendering.renderer import Renderer
from toolkit.strategies.adapter import FitContext
from toolkit.strategies.conversations import chats_on_disk
from toolkit.strategies.streamed import Numbered, streamed
from toolkit.tasks.contract import AnswerContract, target_text
from toolkit.tasks.example import Example
from toolkit.tasks.task import TrainingTask
from toolkit.tuning.amounts import Item
from toolkit.tuning.checks import check_items

Learn = Literal["answers", "preferences", "corpus", "chats"]

SHOWN_PROBLEMS = 5
WINDOW_TOKENS = 512
"""Of raw text, unless the model's context is shorter: enough to learn facts from, and what lies further apart is rare
in the documents of a small corpus."""

CHECKED_ROWS = 256
"""Of train, before a run: a fault of the chat format is in every row, and `train` looks at all of them."""

WINDOW = "window "
"""What windows are called, with the number of each behind it."""


@dataclass(frozen=True)
class Lessons:
    """What is learnt, what errors call each of it, and the ids that end an answer: none in raw text.

    Of raw text and of conversations the items lie in the work folder of who asked for them.
    """

    items: Sequence[Item]
    names: Sequence[str]
    stop: tuple[int, ...]


def lessons(
    context: FitContext, learn: Learn, window_tokens: int | Literal["auto"], chats: Path | None = None
) -> Lessons:
    """What the train split teaches on the drafts that the parts before build; or the corpus, or conversations.

    Args:
        chats: the file of conversations.

    Raises:
        DataError: there is nothing of the kind, or it cannot be read.
        FairnessError: a sequence does not begin with exactly what is sent when asking, or learns some of it.
    """
    if learn == "corpus":
        return _corpus(context, window_tokens)
    if learn == "chats":
        if chats is None:
            raise DataError("there is no file of chats to learn")
        return Lessons(*chats_on_disk(context, chats), context.renderer.stop)
    context.meter.event("drafts", examples=len(context.task.train))
    return _rows(context, learn)


def problems(task: TrainingTask, learn: Learn) -> list[str]:
    """Why a task has nothing of the kind."""
    if learn == "corpus":
        missing = f"task '{task.name}' has no corpus to learn: add a `corpus/` folder or `corpus:`"
        return [missing] if task.corpus is None else []
    if learn == "chats":
        return []
    if not task.train:
        return ["there is nothing to train on: train is empty"]
    if learn == "preferences" and not any(example.rejected for example in task.train):
        return ["no example of train has `rejected` answers, so none is preferred to another; learn `answers`"]
    return []


def row_lessons(
    renderer: Renderer, contract: AnswerContract, example: Example, draft: Draft, learn: Learn, faults: list[str]
) -> dict[str, Item]:
    """What one row of train teaches, by name: its answer; or its answer against each that it rejects, if any.

    Args:
        faults: what is wrong with its sequences is added to these.
    """
    chosen = _taught(renderer, example, draft, target_text(contract, example), faults)
    if learn == "answers":
        return {f"example '{example.id}'": chosen}
    rejected = [_taught(renderer, example, draft, contract.write(answer), faults) for answer in example.rejected]
    return {
        f"example '{example.id}', rejected answer {number}": Preference(chosen, sequence)
        for number, sequence in enumerate(rejected, start=1)
    }


def check_rows(task: TrainingTask, renderer: Renderer, template: Template, learn: Learn, module: Any = None) -> None:
    """Some of train's rows as they would be learnt from bare: what cannot be trained on is told before anything runs.

    Args:
        module: to be trained, where rows must fit into its context.

    Raises:
        DataError: a sequence has a fault that `check_items` names.
        FairnessError: as `lessons`.
    """
    faults: list[str] = []
    found: dict[str, Item] = {}
    for example in task.train[:: max(1, len(task.train) // CHECKED_ROWS)]:
        draft = Draft(example.unlabelled(), template, task.contract)
        found |= row_lessons(renderer, task.contract, example, draft, learn, faults)
    _refuse(faults)
    if found:
        check_items(module, list(found.values()), renderer.stop, renderer.bos, tuple(found))


def corpus_texts(task: TrainingTask) -> list[str]:
    """The corpus's documents as they stand.

    Raises:
        DataError: there is no corpus, or it cannot be read.
    """
    from toolkit.retrieval import read_corpus

    if task.corpus is None:
        raise DataError(f"task '{task.name}' has no corpus to learn")
    return [document.text for document in read_corpus(task.corpus)]


def corpus_windows(
    texts: Sequence[str], model: FoundationModel, window_tokens: int | Literal["auto"]
) -> Iterator[TrainingSequence]:
    """Documents in windows, cut one document after the other as they are asked for.

    Raises:
        DataError: a document has nothing to learn, or windows are longer than the model's context.
    """
    return model.renderer.text_windows(texts, window_length(model, window_tokens))


def _rows(context: FitContext, learn: Learn) -> Lessons:
    found: dict[str, Item] = {}
    faults: list[str] = []
    without = 0
    for example, draft in context.drafts("train"):
        taught = row_lessons(context.renderer, context.task.contract, example, draft, learn, faults)
        found |= taught
        without += not taught
    _refuse(faults)
    if without:
        context.meter.event("notice", text=f"tune: {without} examples of train reject no answer and are left out")
    return Lessons(list(found.values()), tuple(found), context.renderer.stop)


def _taught(renderer: Renderer, example: Example, draft: Draft, answer: str, faults: list[str]) -> TrainingSequence:
    """A training sequence, with what is wrong with it added to the faults."""
    sequence = renderer.training_sequence(draft, answer)
    prompt = renderer.prompt(draft).token_ids or ()
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
    texts = corpus_texts(context.task)
    context.meter.event("texts", documents=len(texts))
    windows = streamed(context.folder, corpus_windows(texts, context.model, window_tokens))
    return Lessons(windows, Numbered(WINDOW, range(len(windows))), ())


def window_length(model: FoundationModel, wanted: int | Literal["auto"]) -> int:
    """Of windows of raw text, in tokens. Raises DataError where they would be longer than the model's context."""
    room = model.context_tokens
    if wanted == "auto":
        return WINDOW_TOKENS if room is None else min(WINDOW_TOKENS, room)
    if room is not None and wanted > room:
        raise DataError(f"window_tokens: {wanted}, but the context of '{model.name}' is {room}; lower it")
    return wanted
