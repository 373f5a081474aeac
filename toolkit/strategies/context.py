"""PartContext: the FitContext of one part of one strategy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import OverLengthError, RecipeError
from toolkit.evaluation import Metric, primary_value
from toolkit.inference.model import FoundationModel
from toolkit.meter import Meter
from toolkit.rendering.draft import Draft
from toolkit.rendering.renderer import Renderer
from toolkit.seeds import derive
from toolkit.store import key_of
from toolkit.strategies.adapter import Answerer, Part
from toolkit.strategies.bench import Bench
from toolkit.strategies.strategy import NamedAdapter, Strategy
from toolkit.strategies.system import System
from toolkit.strategies.trials import KnownTrials
from toolkit.tasks.example import Example
from toolkit.tasks.task import FittingSplit, TrainingTask

if TYPE_CHECKING:
    from toolkit.retrieval import Encoder


class PartContext:
    """The FitContext of one part."""

    def __init__(
        self,
        bench: Bench,
        before: System,
        adapter: NamedAdapter,
        seed: int,
        folder: Path,
        system: Callable[[str], Answerer],
    ) -> None:
        self._bench = bench
        self._before = before
        self._adapter = adapter
        self._system = system
        self.seed = derive(seed, "fit")
        self.folder = folder
        self._known = KnownTrials(folder / "trials.jsonl")
        self.trials: list[float] = list(self._known.values)
        self.earlier_seconds = 0.0

    @property
    def strategy_name(self) -> str:
        return self._before.strategy.name

    @property
    def task(self) -> TrainingTask:
        return self._bench.task

    @property
    def model(self) -> FoundationModel:
        return self._bench.model

    @property
    def renderer(self) -> Renderer:
        return self._bench.model.renderer

    @property
    def encoder(self) -> Encoder:
        return self._bench.encoder

    @property
    def primary(self) -> Metric:
        return self._bench.primary

    @property
    def meter(self) -> Meter:
        return self._bench.meter

    def cached(self, content: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        def timed(folder: Path) -> None:
            started = time.perf_counter()
            build(folder)
            cost = {"seconds": time.perf_counter() - started}
            (folder / "built.json").write_text(json.dumps(cost), encoding="utf-8")

        key = key_of({**content, "made_by": dict(self._bench.versions)})
        self.earlier_seconds += self._bench.store.taking(key, _seconds) or 0.0
        return self._bench.store.folder(key, timed)

    def add_earlier(self, seconds: float) -> None:
        self.earlier_seconds += seconds

    def drafts(self, split: FittingSplit) -> list[tuple[Example, Draft]]:
        examples = self.task.split(split)
        pairs, left = [], []
        for example, draft in zip(
            examples,
            self._before.extended([item.unlabelled(self._before.strategy.control) for item in examples]),
            strict=True,
        ):
            try:
                pairs.append((example, self._before.fitted(draft)))
            except OverLengthError:
                if self._bench.conditions.over_length == "stop":
                    raise
                left.append(example.id)
        if left:
            self.meter.event("notice", text=f"{len(left)} {split} examples are too long and left out: {left[0]}, ...")
        return pairs

    def validate(self, part: Part) -> float:
        known = self._known.get(part.weights)
        if known is not None:
            return known
        bench, before = self._bench, self._before
        stack = Strategy(before.strategy.name, (*before.strategy.adapters, self._adapter))
        outputs = System(stack, [*before.parts, part], bench.model, bench.conditions).answer(self.task.validation)
        value = primary_value(self.task.validation, outputs, bench.primary, bench.conditions.contract)
        self.trials.append(value)
        self._known.put(part.weights, value)
        bench.meter.event("trial", strategy=before.strategy.name, value=value)
        return value

    def system(self, name: str) -> Answerer:
        if name not in self._adapter.settings.uses():
            raise RecipeError(
                f"the adapter '{self._adapter.kind}' asks for strategy '{name}' without naming it in `uses`"
            )
        return self._system(name)


def _seconds(folder: Path) -> float:
    """What a stored entry took when it was built."""
    return float(json.loads((folder / "built.json").read_text(encoding="utf-8"))["seconds"])
