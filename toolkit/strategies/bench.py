"""Bench: what every strategy of a run is fitted with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from toolkit.errors import RecipeError
from toolkit.evaluation import Metric
from toolkit.inference.model import FoundationModel
from toolkit.meter import Meter
from toolkit.seeds import derive
from toolkit.store import Store, key_of
from toolkit.strategies.system import Conditions
from toolkit.tasks.task import TrainingTask

if TYPE_CHECKING:
    from toolkit.retrieval import Encoder


@dataclass(frozen=True)
class Bench:
    """What every strategy of a run is fitted with.

    Attributes:
        environment: versions, dtype, threads, batch size: what bytes depend on besides content.
        versions: of code and libraries alone; whatever a part is made of, it was made by these.
        embedder: loads the recipe's encoder; None where the recipe names none.
        primary: the metric `validate` reports.
    """

    task: TrainingTask
    model: FoundationModel
    conditions: Conditions
    environment: Mapping[str, Any]
    versions: Mapping[str, str]
    embedder: Callable[[], Encoder] | None
    primary: Metric
    store: Store
    meter: Meter

    def seeded(self, seed: int | None) -> Bench:
        """The bench of one replicate: where answers are drawn, they are drawn by its seed."""
        if seed is None or not self.conditions.sampled:
            return self
        sampling = replace(self.conditions.sampling, seed=derive(seed, "sampling"))
        return replace(self, conditions=replace(self.conditions, sampling=sampling))

    @cached_property
    def encoder(self) -> Encoder:
        if self.embedder is None:
            raise RecipeError(
                "a strategy needs an embedder and the recipe names none: add `embedder: all-minilm-l6-v2`"
            )
        return self.embedder()

    @cached_property
    def corpus_digest(self) -> str:
        if self.task.corpus is None:
            return ""
        from toolkit.retrieval import corpus_digest, read_corpus

        return corpus_digest(read_corpus(self.task.corpus))

    @cached_property
    def conditions_key(self) -> str:
        shared = self.conditions
        return key_of(
            {
                "template": shared.template.digest,
                "contract": repr(shared.contract),
                "answer_by": shared.answer_by,
                "sampling": asdict(shared.sampling),
                "likelihood": asdict(shared.likelihood),
                "shared_groups": shared.shared_groups,
                "over_length": shared.over_length,
                "environment": dict(self.environment),
            }
        )
