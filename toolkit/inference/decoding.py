"""Decoding: rows in slots, one new token of each a pass; a finished row leaves, and a waiting one is prefilled in the
same pass in which the others go on.

Prompts behind one prefix share its keys; samples of one prompt share its prefill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from toolkit.inference.keys_values import Prefix, Slots
from toolkit.inference.packed import Packed
from toolkit.inference.plan import Plan, Segment, Steps
from toolkit.inference.sampling import Picker, Row

MOST_SLOTS = 64
REFILL_SHARE = 8
"""Waiting rows enter once an eighth of the slots is free: a pass for one short prompt is mostly overhead."""

WORTH_RESHAPING = 1.2
"""Slots are made smaller when that gives a fifth more of them."""


@dataclass(frozen=True)
class Request:
    """A prompt behind the prefix, and the answers it is to get: one, or several samples."""

    token_ids: Sequence[int]
    answers: Sequence[Row]


@dataclass
class Live:
    """A row under way: its answer, its own tokens in the slot, and how many these may become."""

    answer: Row
    kept: int
    most: int


def decode(packed: Packed, requests: Sequence[Request], prefix: Prefix, picker: Picker, kept_tokens: int) -> None:
    """Decodes every request to its end.

    Args:
        kept_tokens: keys and values of so many tokens are kept at once (at least one request's).
    """
    longest = max((len(request.token_ids) for request in requests), default=0)  # all slots have room for it
    most = max(1, kept_tokens // (longest + picker.sampling.max_new_tokens))
    cut = [part for request in requests for part in _parts(request, most)]
    if cut:
        _Decoding(packed, prefix, picker, cut, kept_tokens).run()


def _parts(request: Request, most: int) -> list[Request]:
    """A request with at most so many answers each, that their keys can be kept at once; mostly one."""
    starts = range(0, len(request.answers), most)
    return [Request(request.token_ids, request.answers[start : start + most]) for start in starts]


class _Decoding:
    """Slots 0 ... B-1 hold the rows under way, side by side; requests wait with the longest first."""

    def __init__(
        self, packed: Packed, prefix: Prefix, picker: Picker, requests: Sequence[Request], kept_tokens: int
    ) -> None:
        self.packed = packed
        self.prefix = prefix
        self.picker = picker
        order = sorted(range(len(requests)), key=lambda place: (-len(requests[place].token_ids), place))
        self.waiting = [requests[place] for place in order]
        self.live: list[Live] = []
        capacity = self._needed()
        answers = [len(request.answers) for request in requests]
        rows = max(*answers, 1, min(sum(answers), MOST_SLOTS, kept_tokens // capacity))
        self.slots = Slots(rows, capacity, packed.layers)

    def run(self) -> None:
        while self.waiting or self.live:
            self._make_room()
            entering = self._entering()
            hidden = self._pass(entering)
            for request in entering:
                self._settle(request)
            self.picker.pick(self.packed.logits(hidden), [row.answer for row in self.live])
            self._leave()

    def _needed(self) -> int:
        """Own tokens of the longest row that is under way or waits, at its end."""
        waiting = len(self.waiting[0].token_ids) + self.picker.sampling.max_new_tokens if self.waiting else 0
        return max([waiting, *(row.most for row in self.live)])

    def _make_room(self) -> None:
        """Once the longest rows are done, more slots for the rest."""
        needed = self._needed()
        if self.waiting and self.slots.capacity >= WORTH_RESHAPING * needed and self.slots.rows < MOST_SLOTS:
            self.slots.reshape(needed, len(self.live))

    def _entering(self) -> list[Request]:
        """The waiting requests that enter with this pass, longest first, within its tokens and the free slots."""
        free = min(self.slots.rows, max(MOST_SLOTS, len(self.waiting[0].answers) if self.waiting else 0))
        free -= len(self.live)
        if self.live and free < max(1, min(self.slots.rows, MOST_SLOTS) // REFILL_SHARE):
            return []
        entering: list[Request] = []
        tokens = len(self.live)
        while self.waiting and len(self.waiting[0].answers) <= free:
            tokens += len(self.waiting[0].token_ids)
            if entering and tokens > self.packed.pass_tokens:
                break
            free -= len(self.waiting[0].answers)
            entering.append(self.waiting.pop(0))
        return entering

    def _pass(self, entering: Sequence[Request]) -> torch.Tensor:
        """One new token of each live row, and the prompts that enter: hidden states [R, D], a row for each answer."""
        tokens = [row.answer.token_ids[-1] for row in self.live]
        steps = Steps(0, tuple(row.kept + 1 for row in self.live)) if self.live else None
        segments: list[Segment] = []
        last = list(range(len(self.live)))
        slot = len(self.live)
        for request in entering:
            done = self._head_start(request, slot)
            own = request.token_ids[done:]
            segments.append(Segment(len(tokens), len(own), done=done, slot=slot))
            tokens += own
            last += [len(tokens) - 1] * len(request.answers)
            slot += len(request.answers)
        for row in self.live:
            row.kept += 1
        hidden = self.packed.forward(tokens, Plan(segments, steps, self.prefix, self.slots))
        return hidden[torch.tensor(last, device=self.packed.device)]

    def _head_start(self, request: Request, slot: int) -> int:
        """A long prompt is run up to its last part by itself; how many of its tokens are done."""
        size, most = len(request.token_ids), self.packed.part_tokens
        done = (size - 1) // most * most
        if done:
            self.packed.fill(request.token_ids[:done], self.prefix, self.slots, slot)
        return done

    def _settle(self, request: Request) -> None:
        """A prefilled request's answers go live, each in a slot with the prompt's keys."""
        first, size = len(self.live), len(request.token_ids)
        for place, answer in enumerate(request.answers):
            if place:
                self.slots.copy(first, first + place, size)
            self.live.append(Live(answer, size, size + self.picker.sampling.max_new_tokens))

    def _leave(self) -> None:
        """Finished rows leave; the last row takes a leaver's slot."""
        for slot in reversed(range(len(self.live))):
            if self.live[slot].answer.done:
                last = self.live.pop()
                if slot < len(self.live):
                    self.slots.copy(len(self.live), slot, last.kept)
                    self.live[slot] = last
