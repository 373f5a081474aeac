"""Settings of LoRA tuning: every field is read by the code, and a test holds that."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_RATE, _RATE_HIDDEN_SIZE = 5e-4, 2000
_EXPONENTS, _EXPONENT = {"qwen": 0.0775}, 0.781
_FEW_STEPS, _FEW_STEPS_FACTOR = 100, 1.5
_LEAST_WARMUP_STEPS, _WARMUP, _MOST_WARMUP = 10, 0.03, 0.1

LARGE_BATCH = 32
"""Effective batches above it cost low-rank updates more than full fine-tuning ("LoRA Without Regret")."""

FULL_TUNING_RATE = 3e-5
"""Rates below it are usual where all weights are trained; low-rank updates want about ten times as much."""

LOW_RANK_RATE = 2e-4
"""Rates above it are usual for low-rank updates; where all weights are trained they often ruin the model."""

Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AtLeastOne = Annotated[int, Field(ge=1)]
Method = Literal["lora", "rslora", "dora", "eva", "pissa", "olora", "full"]

_OF_LOW_RANK = ("rank", "alpha", "rank_pattern", "alpha_pattern", "b_rate_ratio", "dropout", "target_modules")
_FULL_RATE, _PREFERENCE_RATE = 1 / 10, 1 / 20


class TuneSettings(BaseModel):
    """How an adapter is trained. The defaults follow "LoRA Without Regret" and the tinker-cookbook's sweeps.

    Attributes:
        method: `lora`, as nothing beats it reliably once the learning rate is right. `rslora` scales by
            alpha / sqrt(rank) (Kalajdzievski 2023), `dora` learns each output's length apart (Liu et al. 2024; slower:
            it goes through autograd), `eva` starts from the principal directions of each layer's inputs on the first
            4,096 tokens of the training and gives layers ranks by what those explain, at most 2 r (Paischer et al.
            2024; alpha / rank stays), `pissa` starts from the weights' largest singular vectors (Meng et al. 2024),
            `olora` from their QR decomposition (Büyükakyüz 2024). The last two rewrite the base: they train on a
            private copy, and what they learnt is saved as plain LoRA of twice the rank. On a base in bfloat16 that copy
            is rounded again, so that what answers is not quite what was trained: load it in float32 for them. `full`
            trains a copy of all weights instead, through autograd: 16 bytes a parameter of memory, and 12 of disk for
            the checkpoint.
        rank: of the adapter's matrices; its capacity. `auto` is the smallest power of two in 8 ... 256 with which at
            least as many parameters are trained as tokens are supervised ("LoRA Without Regret": capacity should not
            bind). 16, as errors of the learning rate cost more than those of the rank.
        alpha: the adapter's product is scaled by alpha / rank, so that the learning rate need not follow the rank.
        rank_pattern, alpha_pattern: ranks and alphas of some layers, by PEFT's keys: the end of a layer's name, or a
            regular expression. None, as one rank for all layers does well.
        b_rate_ratio: the learning rate of B is this many times that of A (LoRA+, Hayou et al. 2024, who advise 16 with
            a lower rate). 1, as the automatic rate was found for one rate.
        dropout: of the adapter's input while training. 0, as training by hand knows no chance.
        neftune_alpha: while training, embeddings get uniform noise of up to alpha / sqrt(T D) for T tokens of D
            numbers (NEFTune, Jain et al. 2023, who try 5 to 15). 0, as its gains are in open-ended answers; with it,
            training goes through autograd and shares no prefix.
        target_modules: `all-linear` is every linear layer but the output head; or names of layers.
        learning_rate: the peak. `auto` is 5e-4 (2000 / hidden size)^P with P = 0.0775 for Qwen and 0.781 for others, as
            the tinker-cookbook found over 27 models, or 2e-4 where the size is unknown; half as much again for less
            than 100 steps; of `full` a tenth of it, and for preferences a twentieth.
        dpo_beta: for preferences (DPO, Rafailov et al. 2023): how much the margin between two answers counts; the
            smaller it is, the further the model may go from what it was. 0.1, as in the paper.
        epochs: passes over the sequences.
        max_steps: stop after so many steps; the schedule then ends there too.
        effective_batch_size: sequences an optimiser step. 16, as low-rank updates lose by large batches.
        micro_batch_size: sequences a forward pass; `auto` is as many as `micro_batch_tokens` allows. A step is
            accumulated from as many passes as it takes, each supervised token weighing the same, so this changes
            memory and speed but not the result (up to rounding).
        micro_batch_tokens: tokens a forward pass computes, or one sequence; a bound under `auto`.
        gradient_checkpointing: `on` keeps of a pass only what enters each layer and computes the rest again backwards
            (Chen et al. 2016): less memory, about a third more time, the same result. `auto` does so where the memory
            that is free would not suffice otherwise, by the forecast; `off` never.
        warmup_share: of all steps, during which the rate rises. `auto` is 3 %, but 10 steps, but 10 % at most.
        schedule: how the rate goes on after the warm-up: `linear` or `cosine` towards 0, or `constant`.
        beta1, beta2, weight_decay: of AdamW.
        clip: the largest norm of a step's gradient.
        validate_every: steps between looks at validation, the first before any step and one at the end; the state that
            does best there is kept. 0 keeps the last: each look is a trial that a rival did not have.
        patience: stop after so many looks in a row that brought nothing better. None never stops.
        checkpoint_every: steps after which the state is written down, and at the end, so that a killed training goes
            on; with 0 only looks at validation write it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "lora"
    rank: Literal["auto"] | AtLeastOne = 16
    alpha: int = Field(default=32, ge=1)
    rank_pattern: dict[str, AtLeastOne] = Field(default_factory=dict)
    alpha_pattern: dict[str, AtLeastOne] = Field(default_factory=dict)
    b_rate_ratio: Positive = 1.0
    dropout: Share = 0.0
    neftune_alpha: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    learning_rate: Literal["auto"] | Positive = "auto"
    dpo_beta: Positive = 0.1
    epochs: int = Field(default=3, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    effective_batch_size: int = Field(default=16, ge=1)
    micro_batch_size: Literal["auto"] | AtLeastOne = "auto"
    micro_batch_tokens: int = Field(default=4096, ge=1)
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    warmup_share: Literal["auto"] | Share = "auto"
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    beta1: Share = 0.9
    beta2: Share = 0.95
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    clip: Positive = 1.0
    validate_every: int = Field(default=0, ge=0)
    patience: AtLeastOne | None = None
    checkpoint_every: int = Field(default=25, ge=0)

    @model_validator(mode="after")
    def _fields_that_apply(self) -> TuneSettings:
        defaults = type(self).model_fields
        unread = [
            name
            for name in _OF_LOW_RANK
            if getattr(self, name) != defaults[name].get_default(call_default_factory=True)
        ]
        if self.method == "full" and unread:
            raise ValueError(f"method `full` trains the weights themselves and has no {', '.join(unread)}")
        for field in ("rank_pattern", "alpha_pattern"):  # PEFT reads their keys as regular expressions
            for key in getattr(self, field):
                try:
                    re.compile(rf"(.*\.)?({key})$")  # as PEFT has it
                except re.error as error:
                    raise ValueError(f"{field}: '{key}' is no regular expression ({error})") from error
        if self.patience is not None and not self.validate_every:
            raise ValueError("patience counts looks at validation: set `validate_every` too")
        return self

    def resolved_learning_rate(self, config: Any, steps: int, preferences: bool = False) -> float:
        """The peak learning rate.

        Args:
            config: of the base's text model, for its kind and hidden size.
            steps: of the training.
        """
        if self.learning_rate != "auto":
            return self.learning_rate
        kind, size = str(config.model_type), getattr(config, "hidden_size", None)
        exponent = next((found for name, found in _EXPONENTS.items() if kind.startswith(name)), _EXPONENT)
        rate = LOW_RANK_RATE if size is None else _RATE * (_RATE_HIDDEN_SIZE / size) ** exponent
        rate *= _FEW_STEPS_FACTOR if steps < _FEW_STEPS else 1
        return rate * (_FULL_RATE if self.method == "full" else 1) * (_PREFERENCE_RATE if preferences else 1)

    def warmup_steps(self, steps: int) -> int:
        """During which the rate rises, of so many in all."""
        if self.warmup_share != "auto":
            return math.ceil(round(self.warmup_share * steps, 6))  # 0.07 * 100 is a little more than 7
        return math.ceil(min(max(_LEAST_WARMUP_STEPS, _WARMUP * steps), _MOST_WARMUP * steps))

    def notices(self, preferences: bool = False) -> tuple[str, ...]:
        """What is allowed but rarely meant."""
        return (*self._of_batch(), *self._of_rate(preferences))

    def _of_batch(self) -> tuple[str, ...]:
        if self.method == "full" or self.effective_batch_size <= LARGE_BATCH:
            return ()
        return (
            f"effective_batch_size: {self.effective_batch_size} is large for low-rank updates, which lose by batches "
            f"above {LARGE_BATCH} whatever their rank; take more and smaller steps",
        )

    def _of_rate(self, preferences: bool) -> tuple[str, ...]:
        if self.learning_rate == "auto" or preferences:
            return ()
        said = f"learning_rate: {self.learning_rate:g} looks like a learning rate of"
        if self.method != "full" and self.learning_rate < FULL_TUNING_RATE:
            return (
                f"{said} full fine-tuning; low-rank updates want about ten times as much, and `auto` chooses by the "
                "model's size",
            )
        if self.method == "full" and self.learning_rate > LOW_RANK_RATE:
            return (f"{said} low-rank updates; where all weights are trained, a tenth of it is usual",)
        return ()
