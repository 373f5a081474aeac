"""What conversations of a file teach: each assistant message behind exactly what is sent when it is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

from jinja2 import TemplateError

from toolkit.errors import DataError
from toolkit.rendering import TrainingSequence
from toolkit.rendering.renderer import Renderer
from toolkit.strategies.adapter import FitContext
from toolkit.strategies.streamed import Numbered, streamed
from toolkit.tasks.chats import read_chats
from toolkit.tasks.problems import refuse, shown
from toolkit.tuning.sequence_file import SequenceFile


def chat_sequences(path: Path, renderer: Renderer) -> Iterator[tuple[int, tuple[TrainingSequence, ...]]]:
    """Each conversation's line and sequences, as they are asked for: one, or where the chat template rewrites earlier
    turns one a learnt message.

    Raises:
        DataError: lines are no conversations, or the model's chat template does not take them; told at the end, all of
            it at once. Or the file cannot be read.
    """
    problems: list[str] = []
    for conversation in read_chats(path, problems):
        try:
            (found,) = renderer.sequences_by_conversation([conversation.messages])
        except (DataError, TemplateError) as error:
            problems.append(f"{path.name}:{conversation.line}: the model's chat template does not take it: {error}")
            continue
        yield conversation.line, found
    refuse(problems, f"{shown(path)} cannot be learnt from")


def chats_on_disk(context: FitContext, path: Path) -> tuple[SequenceFile, Numbered]:
    """The sequences of all conversations, and what errors call each: `file:line`.

    Raises:
        DataError: as `chat_sequences`.
    """
    lines, counts = array("q"), [0, 0]

    def sequences() -> Iterator[TrainingSequence]:
        for line, found in chat_sequences(path, context.renderer):
            lines.extend([line] * len(found))
            counts[0] += 1
            counts[1] += len(found) > 1
            yield from found

    written = streamed(context.folder, sequences())
    conversations, split = counts
    if split:
        text = (
            f"tune: the model's chat template writes earlier turns differently later on: {split} of {conversations} "
            f"conversations give one sequence an answer, {len(written)} in all"
        )
        context.meter.event("notice", text=text, settled=True)
    return written, Numbered(f"{path.name}:", lines)
