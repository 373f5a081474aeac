"""FoundationModel: what every model, local, hosted or scripted, can be asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from toolkit.errors import ModelError
from toolkit.rendering.prompt import Prompt
from toolkit.rendering.renderer import Renderer
from toolkit.tasks.output import Termination

NO_NUMBERS = "(NaN or infinite): weights that leave float16's range do this; load them in bfloat16 or float32"


@dataclass(frozen=True)
class Sampling:
    """How answers are decoded.

    Attributes:
        max_new_tokens: the longest answer, its stop token not counted.
        temperature: 0 is greedy.
        top_p: sample among the likeliest tokens that together have this probability (nucleus, Holtzman et al. 2020).
        samples: answers a prompt; greedy decoding has one.
        stop: texts that end an answer where they first occur; they are no part of it.
        seed: with the prompt's digest and the sample's number it fixes each draw, whatever else is in the batch.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            (self.max_new_tokens < 1, "max_new_tokens must be at least 1"),
            (not 0 <= self.temperature < math.inf, "temperature must be 0 or more, and finite"),
            (not 0 < self.top_p <= 1, "top_p must be above 0 and at most 1"),
            (self.samples < 1, "samples must be at least 1"),
            ("" in self.stop, "a stop text must not be empty"),
        ]
        if found := [problem for wrong, problem in problems if wrong]:
            raise ModelError("; ".join(found))


@dataclass(frozen=True)
class Bill:
    """What a hosted model's server says of one answer.

    Attributes:
        prompt_tokens, completion_tokens: by the server's own count, of the request that was answered.
        price: in US dollars by the dated price file; None where the model has no price in it.
        model: which of the models asked for answered (another than the first after a fallback).
        requests: sent for this answer, repeated ones included.
    """

    prompt_tokens: int
    completion_tokens: int
    price: float | None
    model: str
    requests: int = 1


@dataclass(frozen=True)
class Generation:
    """One generated answer: ids without the prompt and without the stop token, and why it ended.

    `confidence` is the geometric mean probability of the generated tokens, the stop included; None where unknown.
    `alternatives` are the further samples of the same prompt; `bill` is a hosted model's.
    """

    text: str
    token_ids: tuple[int, ...]
    termination: Termination
    confidence: float | None = None
    alternatives: tuple[Generation, ...] = ()
    bill: Bill | None = None

    @property
    def answered_by(self) -> str:
        """The hosted models that gave its samples, each once; empty for a local model."""
        bills = [one.bill for one in (self, *self.alternatives) if one.bill is not None]
        return ", ".join(dict.fromkeys(bill.model for bill in bills))


@dataclass(frozen=True)
class Weights:
    """Adapted weights: a PEFT adapter folder and the digest of its bytes."""

    folder: Path
    digest: str


class FoundationModel(Protocol):
    """A model with a name, a digest of its weights, and what it can do.

    `renderer` is the one that belongs to the model's tokeniser; `context_tokens` is None where nothing is known.
    """

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def renderer(self) -> Renderer: ...

    @property
    def context_tokens(self) -> int | None: ...

    @property
    def can_score(self) -> bool: ...

    @property
    def can_be_tuned(self) -> bool: ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Generation]:
        """One answer a prompt, in order.

        Raises:
            ModelError: a prompt and the longest answer do not fit the context; a prompt was made for another kind of
                model; the model gives no numbers, or its server no answer.
        """

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[tuple[float, ...]]:
        """For each prompt the log-likelihood (nats, summed over tokens) of each of its continuations.

        Args:
            continuations: of each prompt, as `Renderer.continuations` gives them: with the stop token, or one that is
                the beginning of another would always be the likelier.

        Raises:
            ModelError: as `generate`; a continuation has no token; the model cannot score.
        """

    def adapted(self, weights: Weights, merged: bool = False) -> FoundationModel:
        """The same model under adapted weights: a view; the base's bytes and modules stay as they are.

        `merged` adds the adaptation into a private copy of the weights (in fp32) instead.
        """
