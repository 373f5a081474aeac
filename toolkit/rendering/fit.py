"""Fitting to the context: once, after all parts have extended the drafts, for training and answering alike."""

from __future__ import annotations

from toolkit.errors import OverLengthError
from toolkit.rendering.draft import Draft
from toolkit.rendering.renderer import Renderer


def fitted(draft: Draft, renderer: Renderer, budget_tokens: int) -> Draft:
    """The draft with as many passages and demonstrations as `budget_tokens` prompt tokens allow.

    The last passage goes first, then the last demonstration, or the first where the best stands last; instruction and
    inputs never go. What went is recorded on the draft.

    Raises:
        OverLengthError: instruction and inputs alone are longer than the budget.
    """
    if budget_tokens < 1:
        raise OverLengthError(
            f"example '{draft.example.id}': the longest answer leaves {budget_tokens} tokens of the model's context to "
            "the prompt: lower `max_new_tokens`"
        )
    length = renderer.length(draft)
    while length > budget_tokens:
        shorter = draft.shortened()
        if shorter is None:
            raise OverLengthError(
                f"example '{draft.example.id}': instruction and inputs take {length} tokens, and the model's context "
                f"leaves {budget_tokens} for the prompt; shorten the example or set `over_length: score_as_error`"
            )
        draft, length = shorter, renderer.length(shorter)
    return draft
