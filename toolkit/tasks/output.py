"""Output: what came back for one example. No target, no correctness, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from toolkit.tasks.example import Answer

Status = Literal["answered", "abstained", "unparsable", "error"]
Termination = Literal["stop", "length", "scored", "none"]


@dataclass(frozen=True)
class RetrievedPassage:
    """A passage a strategy retrieved; `used` is False where it was dropped to fit the context."""

    document: str
    start: int
    end: int
    score: float
    rank: int
    used: bool = True


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer: the prompt's by origin, and what was generated or scored.

    A hosted model's are by the server's own count, `calls` its requests (repeated ones included), and `price` in US
    dollars that of the calls whose price is known; None where none is.
    """

    prompt_tokens: Mapping[str, int] = field(default_factory=dict)
    completion_tokens: int = 0
    calls: int = 0
    price: float | None = None

    def __add__(self, other: Usage) -> Usage:
        origins = dict(self.prompt_tokens)
        for origin, tokens in other.prompt_tokens.items():
            origins[origin] = origins.get(origin, 0) + tokens
        prices = [price for price in (self.price, other.price) if price is not None]
        return Usage(
            origins,
            self.completion_tokens + other.completion_tokens,
            self.calls + other.calls,
            sum(prices) if prices else None,
        )


@dataclass(frozen=True)
class Output:
    """One example's outcome.

    Attributes:
        example_id: whose.
        status: answered, abstained, unparsable or error.
        answer: what the contract read; None unless answered.
        text: the answer's text as the model gave it.
        token_ids: generated tokens (without the prompt).
        termination: stop (the model ended its turn), length (the cap), scored (a likelihood), none (no model).
        confidence: the probability of the answer among the choices, or the mean token probability; None if unknown.
        choice_scores: of each choice, in the order of the choices: its log-likelihood, or what the recipe's
            `likelihood` makes of it.
        retrieved: passages, best first.
        dropped_demonstrations: ids of those that did not fit the context.
        citations: documents the answer points at.
        tool_calls: calls a part made on the way, as text.
        trace: what parts want to tell a reader.
        samples: texts of all samples of this answer, its own first, where more than one was drawn.
        usage: tokens by origin.
        prompt_token_ids: the exact ids sent; None for a hosted model.
        prompt_digest: of what was sent.
        error: what went wrong, for status error.
        answered_by: which of a hosted model's names answered: another than the first after a fallback, several where
            samples differ in it. Empty where only one model can.
    """

    example_id: str
    status: Status
    answer: Answer = None
    text: str = ""
    token_ids: tuple[int, ...] = ()
    termination: Termination = "none"
    confidence: float | None = None
    choice_scores: tuple[float, ...] | None = None
    retrieved: tuple[RetrievedPassage, ...] = ()
    dropped_demonstrations: tuple[str, ...] = ()
    citations: tuple[str, ...] = ()
    tool_calls: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    prompt_token_ids: tuple[int, ...] | None = None
    prompt_digest: str = ""
    error: str = ""
    answered_by: str = ""

    @property
    def margin(self) -> float | None:
        """By how much the best choice's score leads the next one's, in nats (a token or byte where the scores are);
        None where choices were not scored."""
        if self.choice_scores is None or len(self.choice_scores) < 2:
            return None
        best, second = sorted(self.choice_scores, reverse=True)[:2]
        return best - second
