"""Raw text as training sequences: a document's ids, cut into windows in which every token is learnt once.

Of n ids the last n - 1 can be predicted. They are shared out among as few windows as fit, so evenly that no two differ
by more than one: none is left with a few tokens and hardly anything before them, and windows of like length need no
padding. Each window begins with the last token of the one before, which is not learnt there a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from toolkit.errors import DataError, listing
from toolkit.rendering.chat import Chat
from toolkit.rendering.prompt import TrainingSequence

SHORTEST_WINDOW_TOKENS = 16
"""Shorter windows would teach little but how texts go on after a handful of tokens."""

SHOWN_PROBLEMS = 5


def text_windows(chat: Chat, texts: Iterable[str], length_tokens: int) -> Iterator[TrainingSequence]:
    """The windows of each text, in order, as they are asked for; see `Renderer.text_sequences`.

    What cannot be learnt from is told at the end, all of it at once.
    """
    if length_tokens < SHORTEST_WINDOW_TOKENS:
        raise DataError(
            f"length_tokens: {length_tokens} is too short a window of text; at least {SHORTEST_WINDOW_TOKENS}"
        )
    number = 0
    problems: list[str] = []
    for number, text in enumerate(texts, start=1):
        ids = document_ids(chat, text) if text.strip() else []
        if len(ids) < 2:
            found = f"{len(ids)} token, before which nothing stands" if ids else "nothing but white space"
            problems.append(f"text {number} holds {found}, so nothing would be learnt; leave it out")
        yield from windows(ids, length_tokens)
    if not number:
        raise DataError("there are no texts to learn from")
    if problems:
        more = [f"and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
        raise DataError(listing(problems[:SHOWN_PROBLEMS] + more, "these texts cannot be learnt from"))


def document_ids(chat: Chat, text: str) -> list[int]:
    """BOS where the tokeniser opens texts with one, the text's own ids, and EOS where there is one.

    A control token's spelling in the text is plain text, as in messages.
    """
    opening = [int(chat.tokenizer.bos_token_id)] if chat.opens_with_bos else []
    end = chat.tokenizer.eos_token_id
    return [*opening, *chat.encode(text), *([] if end is None else [int(end)])]


def windows(ids: Sequence[int], length_tokens: int) -> list[TrainingSequence]:
    """One document's ids [n] as sequences of at most `length_tokens`, at least 2; none where n < 2."""
    predicted = len(ids) - 1
    count = -(-predicted // (length_tokens - 1))
    cuts = [predicted * place // count for place in range(count + 1)] if predicted > 0 else []
    return [
        TrainingSequence(tuple(ids[start : end + 1]), (False,) + (True,) * (end - start))
        for start, end in pairwise(cuts)
    ]
