"""Decoding: rows in slots, one new token of each a pass; a finished row leaves, and a waiting one is prefilled in the
same pass in which the others go on.

Prompts behind one prefix share its keys; samples of one prompt share its prefill.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from toolkit.inference.keys_values import Prefix, Slots
from toolkit.inference.packed import Packed
from toolkit.inference.plan import Plan, Steps, Stretch, stretches
from toolkit.inference.sampling import Picker, Row

MOST_SLOTS = 64
REFILL_SHARE = 8
"""Waiting rows enter once an eighth of the slots is free: a pass for one short prompt is mostly overhead."""


@dataclass(frozen=True)
class Request:
    """A prompt behind the prefix, and the answers it is to get: one, or several samples."""

    token_ids: Sequence[int]
    answers: Sequence[Row]


@dataclass
class Live:
    """A row under way: its answer, and its own tokens in the slot."""

    answer: Row
    kept: int


def decode(packed: Packed, requests: Sequence[Request], prefix: Prefix, picker: Picker, kept_tokens: int) -> None:
    """Decodes every request to its end.

    Args:
        kept_tokens: keys and values of so many tokens are kept at once (at least one request's).
    """
    for wave, capacity in _waves(requests, picker.sampling.max_new_tokens):
        needed = max(len(request.answers) for request in wave)
        wanted = sum(len(request.answers) for request in wave)
        rows = max(needed, min(wanted, MOST_SLOTS, kept_tokens // capacity))
        _Wave(packed, prefix, picker, wave, Slots(rows, capacity)).run()


def _waves(requests: Sequence[Request], new_tokens: int) -> Iterator[tuple[list[Request], int]]:
    """Longest first; a wave's slots have one size, so a row under half of it waits for slots of its own size."""
    lengths = [len(request.token_ids) + new_tokens for request in requests]
    order = sorted(range(len(requests)), key=lambda place: (-lengths[place], place))
    while order:
        capacity = lengths[order[0]]
        wave = [place for place in order if lengths[place] > capacity // 2]
        yield [requests[place] for place in wave], capacity
        order = order[len(wave) :]


class _Wave:
    """Slots 0 ... B-1 hold the rows under way, side by side."""

    def __init__(
        self, packed: Packed, prefix: Prefix, picker: Picker, waiting: Sequence[Request], slots: Slots
    ) -> None:
        self.packed = packed
        self.prefix = prefix
        self.picker = picker
        self.waiting = list(waiting)
        self.slots = slots
        self.live: list[Live] = []

    def run(self) -> None:
        while self.waiting or self.live:
            entering = self._entering()
            hidden = self._pass(entering)
            for request in entering:
                self._settle(request)
            self.picker.pick(self.packed.logits(hidden), [row.answer for row in self.live])
            self._leave()

    def _entering(self) -> list[Request]:
        """The waiting requests that enter with this pass, longest first, within its tokens and the free slots."""
        free = self.slots.rows - len(self.live)
        if self.live and free < max(1, self.slots.rows // REFILL_SHARE):
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
        behind = len(self.prefix)
        tokens = [row.answer.token_ids[-1] for row in self.live]
        positions = [behind + row.kept for row in self.live]
        steps = Steps(0, tuple(row.kept + 1 for row in self.live)) if self.live else None
        blocks: list[Stretch] = []
        last = list(range(len(self.live)))
        slot = len(self.live)
        for request in entering:
            done = self._head_start(request, slot)
            own = request.token_ids[done:]
            blocks += stretches(len(tokens), len(own), behind, done, slot)
            tokens += own
            positions += range(behind + done, behind + len(request.token_ids))
            last += [len(tokens) - 1] * len(request.answers)
            slot += len(request.answers)
        for row in self.live:
            row.kept += 1
        plan = Plan(blocks, steps, self.prefix, self.slots)
        return self.packed.forward(tokens, positions, plan)[torch.tensor(last, device=self.packed.device)]

    def _head_start(self, request: Request, slot: int) -> int:
        """A prompt longer than a pass is run up to its last part by itself; how many of its tokens are done."""
        size, most = len(request.token_ids), self.packed.pass_tokens
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
            self.live.append(Live(answer, size))

    def _leave(self) -> None:
        """Finished rows leave; the last row takes a leaver's slot."""
        for slot in reversed(range(len(self.live))):
            if self.live[slot].answer.done:
                last = self.live.pop()
                if slot < len(self.live):
                    self.slots.copy(len(self.live), slot, last.kept)
                    self.live[slot] = last
