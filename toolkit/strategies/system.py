"""System: a fitted strategy. It answers unlabelled examples, one output each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from toolkit.errors import FairnessError, OverLengthError, RecipeError
from toolkit.inference.model import FoundationModel, Generation, Sampling
from toolkit.prompting import shows_itself
from toolkit.rendering.draft import Draft, Passage
from toolkit.rendering.fit import fitted
from toolkit.rendering.prompt import Prompt
from toolkit.rendering.renderer import Renderer
from toolkit.rendering.template import Template
from toolkit.strategies.adapter import Part, Responder
from toolkit.strategies.strategy import Strategy
from toolkit.tasks.contract import ABSTAIN, AnswerContract, Unread, choices_of
from toolkit.tasks.example import Example
from toolkit.tasks.output import Output, RetrievedPassage, Status, Usage

AnswerBy = Literal["likelihood", "generation"]


@dataclass(frozen=True)
class Likelihood:
    """How a choice is scored: the sum over its tokens and stop, by token or byte; less what it has anyway, or not."""

    normalise: Literal["sum", "tokens", "bytes"] = "sum"
    correct: Literal["none", "unconditional"] = "none"

    def __str__(self) -> str:
        by = {"sum": "", "tokens": " by token", "bytes": " by byte"}[self.normalise]
        return f"likelihood{by}{' less the unconditional one' if self.correct == 'unconditional' else ''}"


@dataclass(frozen=True)
class Conditions:
    """What all strategies of a comparison share unless a contrast says it varies.

    `shared_groups`: whether demonstrations may come from the example's own group.
    `over_length`: what to do with a prompt that stays too long: stop, or give that example an error output.
    """

    template: Template
    contract: AnswerContract
    answer_by: AnswerBy
    sampling: Sampling = field(default_factory=Sampling)
    shared_groups: bool = False
    over_length: Literal["stop", "score_as_error"] = "stop"
    likelihood: Likelihood = field(default_factory=Likelihood)

    @property
    def sampled(self) -> bool:
        """Whether answers are drawn, so that the seed matters to every strategy."""
        return self.answer_by == "generation" and self.sampling.temperature > 0


class System:
    """A strategy's parts over a model.

    Args:
        model: the base model; the stack's adapted weights, if any, are applied here.
        key: of everything the system was made of.
        merged: merge the adapted weights into a copy instead of applying them beside the base's.

    Raises:
        RecipeError: two parts offer weights.
    """

    def __init__(
        self,
        strategy: Strategy,
        parts: Sequence[Part],
        model: FoundationModel,
        conditions: Conditions,
        key: str = "",
        merged: bool = False,
    ) -> None:
        self.strategy = strategy
        self.parts = tuple(parts)
        self.conditions = conditions
        self.key = key
        weights = [part.weights for part in parts if part.weights is not None]
        if len(weights) > 1:
            raise RecipeError(f"strategy '{strategy.name}': two parts offer weights; a stack takes one at most")
        self.weights = weights[0] if weights else None
        self.model = model.adapted(weights[0], merged) if weights else model

    @property
    def renderer(self) -> Renderer:
        return self.model.renderer

    def answer(self, examples: Sequence[Example]) -> list[Output]:
        """One output an example, in order. Targets never reach a part; gold spans reach controls only."""
        asked = [example.unlabelled(keep_spans=self.strategy.control) for example in examples]
        respond: Responder = self._innermost
        for part in self.parts:
            respond = _wrapped(part, respond)
        return self._fitting(self.extended(asked), respond)

    def _fitting(self, drafts: Sequence[Draft], respond: Responder) -> list[Output]:
        """Responds to the drafts as fitted to the context; what cannot be fitted stops or gives an error output."""
        outputs: list[Output | None] = [None] * len(drafts)
        ready: list[tuple[int, Draft]] = []
        for position, draft in enumerate(drafts):
            try:
                ready.append((position, self.fitted(draft)))
            except OverLengthError as error:
                if self.conditions.over_length == "stop":
                    raise
                outputs[position] = Output(draft.example.id, "error", error=str(error))
        answered = respond([draft for _, draft in ready])
        self._check_ids([draft for _, draft in ready], answered)
        for (position, _), output in zip(ready, answered, strict=True):
            outputs[position] = output
        return [output for output in outputs if output is not None]

    def drafts(self, examples: Sequence[Example]) -> list[Draft]:
        """The drafts the parts build for examples, fitted to the context: for training and answering alike.

        Raises:
            OverLengthError: an example does not fit even without passages and demonstrations.
            FairnessError: a part shows an example to itself.
        """
        asked = [example.unlabelled(keep_spans=self.strategy.control) for example in examples]
        return [self.fitted(draft) for draft in self.extended(asked)]

    def extended(self, examples: Sequence[Example]) -> list[Draft]:
        """The drafts the parts build for unlabelled examples, before they are fitted to the context."""
        conditions = self.conditions
        drafts = [Draft(example, conditions.template, conditions.contract) for example in examples]
        for part in self.parts:
            drafts = part.extend(drafts)
        if [draft.example.id for draft in drafts] != [example.id for example in examples]:
            raise FairnessError(
                f"strategy '{self.strategy.name}': {len(examples)} examples gave {len(drafts)} drafts or another "
                "order; a part's `extend` must return exactly one draft an example, in order"
            )
        for example, draft in zip(examples, drafts, strict=True):
            self._check_shown(example, draft)
        return drafts

    def _check_shown(self, example: Example, draft: Draft) -> None:
        for shown in draft.demonstrations:
            if shows_itself(example, shown, self.conditions.shared_groups):
                raise FairnessError(
                    f"strategy '{self.strategy.name}' shows example '{example.id}' a demonstration that is itself, has "
                    f"its content or comes from its group ('{shown.id}'): leave these out in the adapter's `extend`"
                )

    def fitted(self, draft: Draft) -> Draft:
        """The draft as it fits the context. Raises OverLengthError where instruction and inputs alone do not."""
        context = self.model.context_tokens
        return draft if context is None else fitted(draft, self.renderer, context - self._reserve(draft))

    def _reserve(self, draft: Draft) -> int:
        """Tokens the answer may take: the decoding cap, or the longest choice."""
        if self.conditions.answer_by == "generation":
            return self.conditions.sampling.max_new_tokens
        return max(len(ids) for ids in self.renderer.continuations(self._choices(draft)))

    def _choices(self, draft: Draft) -> list[str]:
        return written_choices(self.conditions.contract, draft.example)

    def _innermost(self, drafts: Sequence[Draft]) -> list[Output]:
        """Asks the model; drafts to which a part's `respond` added turns are fitted again, for those need room."""
        return self._fitting(drafts, self._asked) if any(draft.turns for draft in drafts) else self._asked(drafts)

    def _asked(self, drafts: Sequence[Draft]) -> list[Output]:
        """Renders, generates or scores, and parses."""
        prompts = [self.renderer.prompt(draft) for draft in drafts]
        if self.conditions.answer_by == "likelihood":
            return self._scored(drafts, prompts)
        return self._generated(drafts, prompts)

    def _generated(self, drafts: Sequence[Draft], prompts: Sequence[Prompt]) -> list[Output]:
        outputs = []
        for draft, prompt, said in zip(
            drafts, prompts, self.model.generate(prompts, self.conditions.sampling), strict=True
        ):
            reading = self.renderer.parse(said.text, self.conditions.contract)
            status: Status = "answered"
            if isinstance(reading, Unread):
                status = "abstained" if reading is ABSTAIN else "unparsable"
            output = Output(
                draft.example.id,
                status,
                answer=None if isinstance(reading, Unread) else reading,
                text=said.text,
                token_ids=said.token_ids,
                termination=said.termination,
                confidence=said.confidence,
                samples=tuple(one.text for one in (said, *said.alternatives)) if said.alternatives else (),
                usage=_generation_usage(prompt, said),
                answered_by=said.answered_by,
            )
            outputs.append(_with_prompt(output, draft, prompt))
        return outputs

    def _scored(self, drafts: Sequence[Draft], prompts: Sequence[Prompt]) -> list[Output]:
        contract = self.conditions.contract
        texts = [self._choices(draft) for draft in drafts]
        continuations = [self.renderer.continuations(choices) for choices in texts]
        likelihoods, anyway = self._likelihoods(drafts, prompts, texts, continuations)
        outputs = []
        for draft, prompt, choices, ids, scores, more in zip(
            drafts, prompts, texts, continuations, likelihoods, anyway, strict=True
        ):
            best = max(range(len(scores)), key=lambda place: scores[place])
            total = math.log(sum(math.exp(score - scores[best]) for score in scores))
            labels = choices_of(contract, draft.example)
            output = Output(
                draft.example.id,
                "answered" if best < len(labels) else "abstained",
                answer=labels[best] if best < len(labels) else None,
                text=choices[best],
                termination="scored",
                confidence=math.exp(-total),
                choice_scores=tuple(scores),
                usage=Usage(prompt.tokens_by_origin, sum(map(len, ids)), 1) + more,
            )
            outputs.append(_with_prompt(output, draft, prompt))
        return outputs

    def _likelihoods(
        self,
        drafts: Sequence[Draft],
        prompts: Sequence[Prompt],
        texts: Sequence[Sequence[str]],
        continuations: Sequence[Sequence[tuple[int, ...]]],
    ) -> tuple[list[tuple[float, ...]], list[Usage]]:
        """Scores of each draft's choices, as `Likelihood` says, and what the correction took."""
        wanted = self.conditions.likelihood
        found = [list(row) for row in self.model.score(prompts, continuations)]
        extra = [Usage()] * len(prompts)
        if wanted.correct == "unconditional":
            blank = [self.renderer.prompt(draft.content_free()) for draft in drafts]
            for row, anyway in zip(found, self.model.score(blank, continuations), strict=True):
                row[:] = [score - other for score, other in zip(row, anyway, strict=True)]
            extra = [
                Usage(prompt.tokens_by_origin, sum(map(len, ids)), 1)
                for prompt, ids in zip(blank, continuations, strict=True)
            ]
        if wanted.normalise == "tokens":
            lengths = [[len(ids) for ids in row] for row in continuations]
        elif wanted.normalise == "bytes":
            lengths = [[len(text.encode()) for text in row] for row in texts]
        else:
            lengths = [[1] * len(row) for row in texts]
        scores = [
            tuple(score / length for score, length in zip(row, sizes, strict=True))
            for row, sizes in zip(found, lengths, strict=True)
        ]
        return scores, extra

    def _check_ids(self, drafts: Sequence[Draft], outputs: Sequence[Output]) -> None:
        if [draft.example.id for draft in drafts] != [output.example_id for output in outputs]:
            raise FairnessError(
                f"strategy '{self.strategy.name}': {len(drafts)} examples gave {len(outputs)} outputs or another "
                "order; a part's `respond` must return exactly one output a draft, in order"
            )


def written_choices(contract: AnswerContract, example: Example) -> list[str]:
    """The texts an example's likelihoods are compared over: its labels, then the abstention phrase if there is one."""
    texts = [contract.write(label) for label in choices_of(contract, example)]
    return texts if contract.abstention is None else [*texts, contract.abstention]


def _generation_usage(prompt: Prompt, said: Generation) -> Usage:
    """Of all samples, by our own count or by a hosted model's bills: of its prompt's tokens nobody knows the origin."""
    every = (said, *said.alternatives)
    if said.bill is None:
        return Usage(prompt.tokens_by_origin, sum(len(one.token_ids) for one in every), len(every))
    bills = [one.bill for one in every if one.bill is not None]
    each = [Usage({"other": bill.prompt_tokens}, bill.completion_tokens, bill.requests, bill.price) for bill in bills]
    return sum(each[1:], each[0])


def _wrapped(part: Part, inner: Responder) -> Responder:
    return lambda drafts: part.respond(drafts, inner)


def _with_prompt(output: Output, draft: Draft, prompt: Prompt) -> Output:
    used = [_retrieved(passage, True) for passage in draft.passages]
    dropped = [_retrieved(passage, False) for passage in draft.dropped_passages]
    return replace(
        output,
        retrieved=(*used, *dropped),
        dropped_demonstrations=draft.dropped_demonstrations,
        prompt_token_ids=prompt.token_ids,
        prompt_digest=prompt.digest,
    )


def _retrieved(passage: Passage, used: bool) -> RetrievedPassage:
    return RetrievedPassage(passage.document, passage.start, passage.end, passage.score, passage.rank, used)
