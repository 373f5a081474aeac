"""The text by which an example is looked up: what a person asked."""

from __future__ import annotations

from toolkit.strategies.adapter import FitContext
from toolkit.tasks.example import Example


def question_of(example: Example) -> str:
    """The example's inputs as one text, in their order."""
    return "\n".join(value if isinstance(value, str) else str(value) for value in example.inputs.values())


def tell_long_questions(context: FitContext) -> None:
    """A notice where the embedder cannot read the questions to their end."""
    questions = [question_of(example) for example in (*context.task.train, *context.task.validation)]
    most = context.encoder.max_tokens
    if long := sum(tokens > most for tokens in context.encoder.count_tokens(questions)):
        context.meter.event(
            "notice",
            text=f"{long} of {len(questions)} questions are longer than the {most} tokens that the embedder reads: "
            "nothing is looked up by their ends",
            settled=True,
        )
