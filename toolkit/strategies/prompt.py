"""prompt: demonstrations in front of the question."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from toolkit.prompting import rank_nearest, select_balanced, select_random, shows_itself
from toolkit.rendering.draft import Draft
from toolkit.rendering.template import Template, check_inputs
from toolkit.strategies.adapter import Adapter, Dependency, FitContext, Part
from toolkit.strategies.texts import question_of, tell_long_questions
from toolkit.tasks.example import Example
from toolkit.tasks.task import TrainingTask


class PromptAdapter(Adapter):
    """Shows labelled training examples, under another template if wanted.

    Attributes:
        shots: how many; 0 changes the template only.
        select: `random` and `balanced` give one fixed set per task and seed; `nearest` picks for each question.
        template: a prompt template of this strategy's own, by name or path (beside the recipe too); the recipe's where
            absent.
    """

    shots: int = Field(default=4, ge=0)
    select: Literal["random", "balanced", "nearest"] = "random"
    template: str | None = None

    @property
    def seeded(self) -> bool:
        return self.select != "nearest" and self.shots > 0

    def depends_on(self) -> frozenset[Dependency]:
        return frozenset({"encoder"}) if self.select == "nearest" else frozenset()

    def check(self, task: TrainingTask) -> list[str]:
        problems = []
        if self.template is not None:
            check_inputs(Template.load(self.template, self._recipe), task.train[0].inputs, task.contract.labels)
        if self.shots >= len(task.train):
            problems.append(f"shots: {self.shots} asked for, and train has {len(task.train)} examples")
        if self.select == "balanced" and self.shots:
            labels = len(task.contract.labels)
            if task.contract.kind != "choice":
                problems.append("select: `balanced` needs a choice task; use random or nearest")
            elif self.shots < labels:
                problems.append(f"shots: balanced demonstrations need one a label at least: {labels} labels")
        return problems

    def content(self) -> Mapping[str, Any]:
        return {"template": Template.load(self.template, self._recipe).digest if self.template else None}

    def fit(self, context: FitContext) -> Part:
        pool = context.task.train
        if self.select == "nearest" and self.shots:
            tell_long_questions(context)
            return self._nearest(context)
        select = select_balanced if self.select == "balanced" else select_random
        chosen = select(pool, self.shots, context.seed) if self.shots else []
        return self._part(FixedDemonstrations(chosen, _spares(pool, chosen, context), context))

    def load(self, folder: Path, context: FitContext) -> Part:
        if self.select == "nearest" and self.shots:
            return self._nearest(context)
        names = json.loads((folder / "demonstrations.json").read_text(encoding="utf-8"))
        by_id = {example.id: example for example in context.task.train}
        chosen, spares = ([by_id[name] for name in names[kind]] for kind in ("chosen", "spares"))
        return self._part(FixedDemonstrations(chosen, spares, context))

    def _nearest(self, context: FitContext) -> Part:
        pool = context.task.train
        vectors = context.encoder.encode_queries([question_of(example) for example in pool])
        return self._part(NearestDemonstrations(pool, vectors, context, self.shots))

    def _part(self, part: Demonstrations) -> Part:
        part.template = Template.load(self.template, self._recipe) if self.template else None
        return part


def _spares(pool: Sequence[Example], chosen: Sequence[Example], context: FitContext) -> list[Example]:
    """Stand-ins for a demonstration that is the very example being asked (only training drafts meet this)."""
    rest = [example for example in pool if example not in chosen]
    return select_random(rest, min(8, len(rest)), context.seed)


class Demonstrations(Part):
    """Shows each question its demonstrations, under the strategy's own template if it has one."""

    template: Template | None = None
    best_last = False

    def __init__(self, context: FitContext) -> None:
        self._shared_groups = context.task.shared_groups is not None

    def shown(self, examples: Sequence[Example]) -> list[list[Example]]:
        """For each example its demonstrations, in the order they are shown."""
        return [[] for _ in examples]

    def extend(self, drafts: Sequence[Draft]) -> list[Draft]:
        shown = self.shown([draft.example for draft in drafts])
        extended = [
            draft.with_demonstrations(items, best_last=self.best_last)
            for draft, items in zip(drafts, shown, strict=True)
        ]
        template = self.template
        return extended if template is None else [replace(draft, template=template) for draft in extended]

    def _allowed(self, example: Example, candidate: Example) -> bool:
        return not shows_itself(example, candidate, self._shared_groups)


class FixedDemonstrations(Demonstrations):
    """One set for all questions."""

    def __init__(self, chosen: Sequence[Example], spares: Sequence[Example], context: FitContext) -> None:
        super().__init__(context)
        self._chosen, self._spares = tuple(chosen), tuple(spares)

    def shown(self, examples: Sequence[Example]) -> list[list[Example]]:
        return [self._for(example) for example in examples]

    def save(self, folder: Path) -> None:
        names = {"chosen": [item.id for item in self._chosen], "spares": [item.id for item in self._spares]}
        (folder / "demonstrations.json").write_text(json.dumps(names, indent=1), encoding="utf-8")

    def describe(self) -> Mapping[str, Any]:
        return {"demonstrations": [item.id for item in self._chosen]}

    def _for(self, example: Example) -> list[Example]:
        spares = (item for item in self._spares if self._allowed(example, item))
        shown = [item if self._allowed(example, item) else next(spares, None) for item in self._chosen]
        return [item for item in shown if item is not None]


class NearestDemonstrations(Demonstrations):
    """The training examples most like the question, the most like it last (next to the question)."""

    best_last = True

    def __init__(self, pool: Sequence[Example], vectors: Any, context: FitContext, shots: int) -> None:
        super().__init__(context)
        self._pool, self._vectors, self._encoder, self._shots = tuple(pool), vectors, context.encoder, shots

    def shown(self, examples: Sequence[Example]) -> list[list[Example]]:
        queries = self._encoder.encode_queries([question_of(example) for example in examples])
        shown = []
        for example, ranking in zip(examples, rank_nearest(self._vectors, queries), strict=True):
            allowed = (self._pool[place] for place in ranking if self._allowed(example, self._pool[place]))
            shown.append(list(islice(allowed, self._shots))[::-1])
        return shown
