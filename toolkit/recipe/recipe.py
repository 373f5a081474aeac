"""Recipe: a whole experiment as the rest of the toolkit reads it, checked and complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from toolkit.recipe.document import Document, Place, dotted
from toolkit.recipe.schema import AnswerBy, Decoding, Dtype, Factor, Likelihood, StrategyDecoding
from toolkit.strategies.strategy import Strategy
from toolkit.tasks.schema import InlineTask


@dataclass(frozen=True)
class StrategyOverrides:
    """What one strategy sets in place of the recipe; None leaves the recipe's. `model` is a key of `models`."""

    model: str | None = None
    template: str | None = None
    answer_by: AnswerBy | None = None
    decoding: StrategyDecoding | None = None


@dataclass(frozen=True)
class ContrastSpec:
    """A comparison of strategy `a` against strategy `b`.

    Attributes:
        varies: factors that may differ besides the parts of the two stacks.
        margin: the contrast's own, else (on the primary metric) the recipe's; None where neither is declared.
        metric: None is the primary one.
    """

    a: str
    b: str
    varies: tuple[Factor, ...] = ()
    margin: float | None = None
    metric: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A recipe with its overrides applied and its defaults filled in; made by `load_recipe`.

    Attributes:
        path: the file; names in the recipe are also looked for beside it.
        models: further models by name (name -> catalogue name), for `StrategyOverrides.model`.
        answer_by: None is by likelihood for choice tasks on models that can score, else by generation.
        overrides: one entry for every strategy, mostly empty.
        baseline: None where no strategy was declared one and none has an empty list.
        contrasts: each candidate against the baseline, in recipe order, then the declared ones. A declared contrast
            on the primary metric takes the place of the default one of the same pair; controls are contrasted only
            where declared.
        metrics: in place of the task's; empty where the task's count.
        text: the whole recipe as YAML, overrides and defaults included; it loads to the same digest.
        digest: sha256 of everything but name and description, whatever the order of keys.
    """

    path: Path
    name: str
    description: str
    task: str | InlineTask
    model: str
    models: Mapping[str, str]
    embedder: str | None
    template: str
    dtype: Dtype
    device: str
    answer_by: AnswerBy | None
    decoding: Decoding
    likelihood: Likelihood
    seeds: tuple[int, ...]
    strategies: tuple[Strategy, ...]
    overrides: Mapping[str, StrategyOverrides]
    baseline: str | None
    contrasts: tuple[ContrastSpec, ...]
    margin: float | None
    metrics: tuple[str, ...]
    limit: int | None
    over_length: Literal["stop", "score_as_error"]
    timing_examples: int
    chunk_examples: int
    batch_tokens: int
    unequal_trials: str | None
    alpha: float
    text: str = field(repr=False)
    digest: str
    document: Document = field(repr=False, compare=False)

    def model_of(self, strategy: str) -> str:
        """The catalogue name of the model that a strategy asks."""
        own = self.overrides[strategy].model
        return self.models[own] if own else self.model

    def decoding_of(self, strategy: str) -> Decoding:
        """The recipe's decoding with what the strategy sets in its place.

        A strategy that makes itself greedy leaves behind what only drawing has a use for.
        """
        own = self.overrides[strategy].decoding
        if own is None:
            return self.decoding
        greedy = {"top_p", "samples"} if own.given.get("temperature") == 0 else set()
        dropped = {name: Decoding.model_fields[name].default for name in greedy}
        return self.decoding.model_copy(update={**dropped, **own.given})

    def where(self, *place: str | int) -> str:
        """How an error names a key: `recipes/mine.yaml:7: strategies.rag.0.retrieve`."""
        key: Place = place
        return f"{self.document.origin(key).label}: {dotted(key)}"

    def strategy(self, name: str) -> Strategy:
        """The strategy of that name. Raises KeyError where there is none."""
        return {strategy.name: strategy for strategy in self.strategies}[name]
