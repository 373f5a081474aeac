"""RemoteModel: a model behind an OpenAI-compatible server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from toolkit.errors import ModelError
from toolkit.inference.model import Bill, FoundationModel, Generation, Sampling, Weights
from toolkit.inference.remote.client import Client, NoAnswer
from toolkit.inference.remote.faults import GivenUp, Refused
from toolkit.inference.remote.journal import Journal, Kept
from toolkit.inference.remote.prices import price_dollars, prices_for
from toolkit.inference.remote.rate import Clock
from toolkit.inference.remote.request import Request, requests_of
from toolkit.inference.remote.wire import Wire, connected
from toolkit.models.endpoint import EndpointSource
from toolkit.rendering.prompt import Prompt
from toolkit.rendering.renderer import Renderer
from toolkit.store import Store

if TYPE_CHECKING:
    from toolkit.models import Entry


@dataclass(frozen=True)
class Account:
    """What a model was asked in this process.

    Attributes:
        answered: requests answered by the server.
        kept: answers found in the journal instead; each counts once.
        oldest_seconds: the age of the oldest of these.
        repeated: requests sent again after a fault, or to a further model.
        fallbacks: answers of another model than the first, by its name.
        uncounted: answers whose tokens the server did not tell.
    """

    answered: int
    kept: int
    oldest_seconds: float
    repeated: int
    fallbacks: Mapping[str, int]
    uncounted: int


class RemoteModel:
    """Generates answers through a server; several requests at once, each answered once and kept.

    It cannot score continuations: no server says the likelihood of given tokens exactly over this protocol. Its weights
    are out of reach, so it cannot be tuned.

    Args:
        name: for score tables.
        endpoint: where and how to ask.
        store: keeps the journal of answers.
        clock: for tests.
        notice: told, in one line, of waits long enough to be taken for a stop.
    """

    can_score = False
    can_be_tuned = False

    def __init__(
        self,
        name: str,
        endpoint: EndpointSource,
        store: Store,
        clock: Clock | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self.digest = endpoint.digest
        self.renderer = Renderer(None)
        self.context_tokens = endpoint.context_tokens
        self._clock = clock if clock is not None else Clock()
        tell = notice if notice is not None else _say_nothing
        self._go_on = "run the same command again to go on"
        if not store.read:
            self._go_on = (
                "run the same command again without `--fresh` to go on (what was not asked for again yet is then taken "
                "from the answers of before), or with it to ask for all of them once more"
            )
        self._client = Client(endpoint, self._clock, lambda text: tell(f"{name}: {text}"))
        self._journal = Journal(store, endpoint.expires_days)
        self.prices = prices_for(endpoint)
        self._answered: dict[str, Kept] = {}
        self._found: dict[str, Kept] = {}
        self.replayed_seconds = 0.0
        """What the answers taken from the journal took when they were given, all together: for timings."""

    @classmethod
    def of(cls, entry: Entry, store: Store, notice: Callable[[str], None] | None = None) -> RemoteModel:
        """From a catalogue entry.

        Raises:
            ModelError: the entry's model is not served, or its price file cannot be read.
        """
        if entry.source.endpoint is None:
            raise ModelError(f"'{entry.name}' is no served model: its source is {entry.source}")
        return cls(entry.name, entry.source.endpoint, store, notice=notice)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Generation]:
        """One answer a prompt, in order. Equal prompts are asked once.

        Raises:
            ModelError: a request failed for good; what was answered is kept and will not be asked again.
        """
        asked = [requests_of(prompt, sampling, self.endpoint) for prompt in prompts]
        answers = self._answers({request.key: request for row in asked for request in row})
        return [self._generation([answers[request.key] for request in row], sampling) for row in asked]

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[tuple[float, ...]]:
        raise ModelError(f"the served model '{self.name}' cannot score choices: use `answer_by: generation`")

    def adapted(self, weights: Weights, merged: bool = False) -> FoundationModel:
        raise ModelError(f"the served model '{self.name}' cannot carry adapted weights: name a local model")

    def check_key(self) -> None:
        """Raises ModelError where no connection could be made, for want of a key say, before anything is computed."""
        with connected(self.endpoint, self._clock):
            pass

    @property
    def account(self) -> Account:
        now = self._clock.wall()
        every = [*self._answered.values(), *self._found.values()]
        others = [kept.model for kept in every if kept.model != self.endpoint.model]
        return Account(
            answered=len(self._answered),
            kept=len(self._found),
            oldest_seconds=max((now - kept.answered_at for kept in self._found.values()), default=0.0),
            repeated=sum(kept.requests - 1 for kept in self._answered.values()),
            fallbacks={model: others.count(model) for model in dict.fromkeys(others)},
            uncounted=sum(None in (kept.reply.prompt_tokens, kept.reply.completion_tokens) for kept in every),
        )

    def _answers(self, requests: Mapping[str, Request]) -> dict[str, Kept]:
        """By key: from this process, the journal, or the server."""
        now = self._clock.wall()
        known: dict[str, Kept] = {}
        for key, request in requests.items():
            kept = self._answered.get(key) or self._found.get(key) or self._journal.find(request, now)
            if kept is not None:
                known[key] = kept
                self.replayed_seconds += kept.seconds
                if key not in self._answered:
                    self._found[key] = kept
        missing = [request for key, request in requests.items() if key not in known]
        return {**known, **self._ask_all(missing)} if missing else known

    def _ask_all(self, requests: Sequence[Request]) -> dict[str, Kept]:
        """Several at once. Where one fails for good nothing more is sent; what is under way is still kept."""
        stop = threading.Event()
        with connected(self.endpoint, self._clock) as wire:
            pool = ThreadPoolExecutor(self.endpoint.concurrency, thread_name_prefix="remote")
            futures = [pool.submit(self._ask, wire, request, stop) for request in requests]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        for request, future in zip(requests, futures, strict=True):
            failure = None if future.cancelled() else future.exception()
            if isinstance(failure, NoAnswer):
                raise self._failed(failure, request, len(requests)) from None
            if failure is not None and not isinstance(failure, GivenUp):
                raise failure
        return {request.key: future.result() for request, future in zip(requests, futures, strict=True)}

    def _ask(self, wire: Wire, request: Request, stop: threading.Event) -> Kept:
        try:
            kept = self._client.ask(wire, request, stop)
            self._journal.keep(request, kept, kept.model == self.endpoint.model)
        except BaseException:
            stop.set()  # here, because this thread would begin the next request before the main one could say so
            raise
        self._answered[request.key] = kept
        return kept

    def _failed(self, failure: NoAnswer, request: Request, asked: int) -> ModelError:
        happened = "; ".join(f"'{model}': {fault.reason}" for model, fault in failure.faults)
        advice = next((fault.advice for _, fault in failure.faults if fault.advice), "")
        kept = len(self._answered) + len(self._found)
        again = self._go_on
        if all(type(fault) is Refused for _, fault in failure.faults):  # not for the model's name or the key
            again = f"where only this one is refused, mend or leave out its example; {again}"
        return ModelError(
            f"the served model '{self.name}' ({self.endpoint.url}) left one of {asked} requests, sent "
            f"{failure.requests} times, without an answer (it ends {request.ending}): {happened}; "
            f"{f'{advice}; ' if advice else ''}{kept} answers are kept and are not asked for again: {again}"
        )

    def _generation(self, samples: Sequence[Kept], sampling: Sampling) -> Generation:
        first, *others = (self._one(kept, sampling) for kept in samples)
        return replace(first, alternatives=tuple(others))

    def _one(self, kept: Kept, sampling: Sampling) -> Generation:
        reply = kept.reply
        price = price_dollars(self.prices.get(kept.model), reply.prompt_tokens, reply.completion_tokens)
        bill = Bill(reply.prompt_tokens or 0, reply.completion_tokens or 0, price, kept.model, kept.requests)
        text, cut = _cut(reply.text, sampling.stop)
        return Generation(text.strip(), (), "stop" if cut else reply.termination, reply.confidence, bill=bill)


def _say_nothing(text: str) -> None:
    """Where nobody listens."""


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first stop text, which some servers leave in; and whether there was one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
