"""Checks of training sequences: what would teach the wrong thing, or nothing, is told before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.errors import DataError, listing
from toolkit.rendering.prompt import Preference, TrainingSequence
from toolkit.tuning.amounts import Item, supervised_count

SHOWN_PROBLEMS = 5
"""Sequences named for each fault, so that one that is everywhere does not hide another."""


def check_items(
    module: Any,
    items: Sequence[Item],
    stop: Sequence[int] = (),
    bos: int | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Refuses what cannot be learnt from, all faults at once.

    Args:
        module: the model to be trained; None checks what needs none.
        items: sequences, or preferences.
        stop: the ids that end every answer, in their order (a `Renderer`'s `stop`); empty where answers have no end,
            as in raw text.
        bos: the id that opens a sequence at most once.
        names: of the items; by default they are counted from 0.

    Raises:
        DataError: there is nothing, or not a name for each; or a sequence has marks of another number than tokens,
            nothing supervised, exceeds the model's context, holds an id that the model does not know, does not teach
            where an answer ends, or opens twice; or the two answers of a preference are the same, or of different
            prompts.
    """
    if not items:
        raise DataError("there are no training sequences")
    if names is not None and len(names) != len(items):
        raise DataError(f"{len(items)} sequences with {len(names)} names; give each one")
    if len({type(item) for item in items}) > 1:
        raise DataError("sequences and preferences cannot be learnt from in one training: give the one or the other")
    by_fault: dict[str, list[str]] = {}
    context, known = (None, None) if module is None else _limits(module)
    for name, sequence in _named(items, names):
        for fault, said in _faults(sequence, context, known, tuple(stop), bos):
            by_fault.setdefault(fault, []).append(f"{name}: {said}")
    for name, pair in _pairs(items, names):
        if (why := _undecided(pair)) is not None:
            by_fault.setdefault("no preference", []).append(f"{name}: {why}")
    problems: list[str] = []
    for fault, found in by_fault.items():
        problems += found[:SHOWN_PROBLEMS]
        if len(found) > SHOWN_PROBLEMS:
            problems.append(f"and {len(found) - SHOWN_PROBLEMS} more: {fault}")
    if problems:
        raise DataError(listing(problems, "these sequences cannot be trained on"))


def _limits(module: Any) -> tuple[int | None, int]:
    """The model's context, where it has one, and how many token ids it knows."""
    context = getattr(module.config.get_text_config(), "max_position_embeddings", None)
    return context, int(module.get_input_embeddings().weight.shape[0])


def _named(items: Sequence[Item], names: Sequence[str] | None) -> Iterator[tuple[str, TrainingSequence]]:
    for index, item in enumerate(items):
        if isinstance(item, Preference):
            name = _name("preference", index, names)
            yield f"{name}, chosen", item.chosen
            yield f"{name}, rejected", item.rejected
        else:
            yield _name("sequence", index, names), item


def _name(kind: str, index: int, names: Sequence[str] | None) -> str:
    return f"{kind} {index}" if names is None else names[index]


def _pairs(items: Sequence[Item], names: Sequence[str] | None) -> Iterator[tuple[str, Preference]]:
    for index, item in enumerate(items):
        if isinstance(item, Preference):
            yield _name("preference", index, names), item


def _undecided(pair: Preference) -> str | None:
    """Why a pair tells nothing of what is preferred."""
    if pair.chosen.token_ids == pair.rejected.token_ids:
        return "the chosen answer is the rejected one; leave it out"
    prompts = [one.token_ids[: one.supervised.index(True)] for one in pair if True in one.supervised]
    if len(prompts) == 2 and prompts[0] != prompts[1]:
        return "its two answers are to different prompts"
    return None


def _faults(
    sequence: TrainingSequence, context: int | None, known: int | None, stop: tuple[int, ...], bos: int | None
) -> Iterator[tuple[str, str]]:
    """Each fault of one sequence: its name, and what was found with what to do."""
    ids = sequence.token_ids
    if len(ids) != len(sequence.supervised):
        yield "another mask", f"{len(ids)} tokens with {len(sequence.supervised)} marks; give each token one"
        return
    if not supervised_count(sequence):
        yield (
            "nothing supervised",
            f"none of its {len(ids)} tokens is supervised, so nothing would be learnt; mark an answer or leave it out",
        )
    if context is not None and len(ids) > context:
        yield "too long", f"{len(ids)} tokens, but the model's context is {context}; shorten it"
    if known is not None and ids and not 0 <= min(ids) <= max(ids) < known:
        foreign = next(token for token in ids if not 0 <= token < known)
        yield (
            "unknown token ids",
            f"token id {foreign} is none of the model's {known}; render with the model's own tokeniser",
        )
    if stop and (end := _unstopped(sequence, stop)) is not None:
        yield (
            "no supervised stop token",
            f"the supervised tokens that end at position {end} do not end with the stop token "
            f"{', '.join(map(str, stop))}, so the model would not learn to stop; add it, supervised",
        )
    if bos is not None and ids[:2] == (bos, bos):
        yield "two BOS", f"it starts with two BOS tokens (id {bos}); let the chat template or the tokeniser write one"


def _unstopped(sequence: TrainingSequence, stop: tuple[int, ...]) -> int | None:
    """Where the first run of supervised tokens ends without the whole stop among them; None if all have it."""
    start: int | None = None
    for place, supervised in enumerate((*sequence.supervised, False)):
        if supervised and start is None:
            start = place
        elif not supervised and start is not None:
            if sequence.token_ids[max(start, place - len(stop)) : place] != stop:
                return place - 1
            start = None
    return None
