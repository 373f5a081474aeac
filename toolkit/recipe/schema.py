"""What a recipe file may say: every key with its type, limits and default.

Numbers and texts are taken as written: a quoted '8' is text, 8.0 is no whole number.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from toolkit.tasks.schema import InlineTask

AnswerBy = Literal["likelihood", "generation"]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "nf4"]
Factor = Literal["model", "dtype", "decoding", "answer_by", "template"]


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"the name '{name}' may hold letters, digits, '_' and '-' only")
    return name


def _file_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise ValueError(f"'{name}' names a folder: it may hold letters, digits, '_', '-' and '.' only")
    return name


def _distinct(values: tuple[object, ...]) -> tuple[object, ...]:
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    if twice:
        raise ValueError(f"must be distinct, found {twice[0]} more than once")
    return values


Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, AfterValidator(_plain_name)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_distinct)]
MaxNewTokens = Annotated[int, Field(ge=1, le=4096)]
Temperature = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1)]
Samples = Annotated[int, Field(ge=1, le=64)]
Margin = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Strict(BaseModel):
    """No unknown keys, no changes afterwards, no guessing of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Decoding(Strict):
    """How answers are generated.

    Attributes:
        temperature: 0 is greedy; above it every strategy is run for each seed.
        top_p: sample among the likeliest tokens that together have this probability.
        samples: answers a question, for parts that vote; the first is the one that counts otherwise.
        stop: texts that end an answer and are no part of it.
    """

    max_new_tokens: MaxNewTokens = 32
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    samples: Samples = 1
    stop: tuple[Text, ...] = ()


class Likelihood(Strict):
    """How choices are scored by likelihood.

    Attributes:
        normalise: the sum over a choice's tokens and its stop, or that sum by token or by byte of its text.
        correct: `unconditional` takes away how likely the choice is anyway, after the same prompt with its inputs and
            passages blanked (pointwise mutual information: Holtzman et al. 2021; blanked as by Zhao et al. 2021).
    """

    normalise: Literal["sum", "tokens", "bytes"] = "sum"
    correct: Literal["none", "unconditional"] = "none"


class Timing(Strict):
    """The timed pass: so many examples one by one; 0 leaves it out."""

    examples: int = Field(default=32, ge=0)


class Contrast(Strict):
    """A declared comparison of strategy `a` against strategy `b`.

    Attributes:
        varies: factors, other than the parts of the two stacks, that may differ between them.
        margin: differences below it count as equivalent, in the metric's unit (0.02 is 2 points); where absent the
            recipe's, which is on the primary metric.
        metric: another metric than the primary one.
    """

    a: str
    b: str
    varies: Annotated[tuple[Factor, ...], AfterValidator(_distinct)] = ()
    margin: Margin | None = None
    metric: Text | None = None


class StrategyDecoding(Strict):
    """What a strategy decodes otherwise than the recipe."""

    max_new_tokens: MaxNewTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    samples: Samples | None = None
    stop: tuple[Text, ...] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> StrategyDecoding:
        if not self.given:
            raise ValueError(f"must set at least one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """What is set, by name."""
        return self.model_dump(exclude_none=True)


class StrategySettings(Strict):
    """What a strategy may set beside its adapters; `model` is a key of the recipe's `models`."""

    model: Text | None = None
    template: Text | None = None
    answer_by: AnswerBy | None = None
    decoding: StrategyDecoding | None = None


class RecipeFile(Strict):
    """The keys of a recipe, in the order in which they are written back.

    Attributes:
        name: the file's stem where absent.
        dtype: what local weights are kept in; `nf4` is 4 bits (the extra `qlora`), for all strategies alike.
        models: further models, for strategies that set `model: <name>`.
        answer_by: None is by likelihood for choice tasks on models that can score, else by generation.
        strategies: lists of parts, read by `toolkit.recipe.parts`.
        baseline: the strategy with an empty list where absent.
        metrics: in place of the task's; the first is the primary one.
        unequal_trials: why strategies may have had unequal numbers of trials on validation.
    """

    name: Annotated[str, AfterValidator(_file_name)] | None = None
    description: str = ""
    task: Text | InlineTask
    model: Text
    models: dict[Name, Text] = {}
    embedder: Text | None = None
    template: Text = "answer"
    dtype: Dtype = "auto"
    device: Text = "auto"
    answer_by: AnswerBy | None = None
    decoding: Decoding = Decoding()
    likelihood: Likelihood = Likelihood()
    seeds: Seeds = (0,)
    strategies: Annotated[dict[Name, list[JsonValue]], Field(min_length=1)]
    baseline: str | None = None
    contrasts: tuple[Contrast, ...] = ()
    margin: Margin | None = None
    metrics: Annotated[tuple[Text, ...], AfterValidator(_distinct)] = ()
    limit: Annotated[int, Field(ge=1)] | None = None
    over_length: Literal["stop", "score_as_error"] = "stop"
    timing: Timing = Timing()
    chunk_examples: int = Field(default=32, ge=1)
    batch_tokens: int = Field(default=2048, ge=256)
    unequal_trials: Text | None = None
    alpha: float = Field(default=0.05, gt=0, lt=0.5, allow_inf_nan=False)
