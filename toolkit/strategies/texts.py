"""The text by which an example is looked up: what a person asked."""

from __future__ import annotations

from toolkit.tasks.example import Example


def question_of(example: Example) -> str:
    """The example's inputs as one text, in their order."""
    return "\n".join(value if isinstance(value, str) else str(value) for value in example.inputs.values())
