"""nearest_neighbour: the control without a language model, for choice tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from toolkit.prompting import rank_nearest, shows_itself
from toolkit.rendering.draft import Draft
from toolkit.strategies.adapter import Adapter, Dependency, FitContext, Part, Responder
from toolkit.strategies.texts import question_of, tell_long_questions
from toolkit.tasks.example import Example
from toolkit.tasks.output import Output
from toolkit.tasks.task import TrainingTask


class NearestNeighbourAdapter(Adapter):
    """The label of the training example whose embedding is nearest, or of a vote weighted by similarity.

    Attributes:
        neighbours: how many vote.
    """

    control: ClassVar[bool] = True
    neighbours: int = Field(default=1, ge=1)

    def depends_on(self) -> frozenset[Dependency]:
        return frozenset({"encoder"})

    def check(self, task: TrainingTask) -> list[str]:
        if task.contract.kind != "choice":
            return ["nearest_neighbour answers with a training label, so it needs a choice task"]
        return []

    def fit(self, context: FitContext) -> Part:
        pool = context.task.train
        tell_long_questions(context)
        vectors = context.encoder.encode_queries([question_of(example) for example in pool])
        return self._part(vectors, context)

    def load(self, folder: Path, context: FitContext) -> Part:
        import numpy as np

        return self._part(np.load(folder / "train_vectors.npy", allow_pickle=False), context)

    def _part(self, vectors: Any, context: FitContext) -> Part:
        shared = context.task.shared_groups is not None
        return NearestLabels(context.task.train, vectors, context.encoder, self.neighbours, shared)


class NearestLabels(Part):
    """Answers in the model's place; the inner responder is never called."""

    def __init__(
        self, pool: Sequence[Example], vectors: Any, encoder: Any, neighbours: int, shared_groups: bool
    ) -> None:
        self._pool, self._vectors, self._encoder = tuple(pool), vectors, encoder
        self._neighbours, self._shared_groups = neighbours, shared_groups

    def respond(self, drafts: Sequence[Draft], answer: Responder) -> list[Output]:
        queries = self._encoder.encode_queries([question_of(draft.example) for draft in drafts])
        rankings = rank_nearest(self._vectors, queries)
        return [
            self._answer(draft, ranking, queries[row])
            for row, (draft, ranking) in enumerate(zip(drafts, rankings, strict=True))
        ]

    def save(self, folder: Path) -> None:
        import numpy as np

        np.save(folder / "train_vectors.npy", self._vectors, allow_pickle=False)

    def _answer(self, draft: Draft, ranking: Sequence[int], query: Any) -> Output:
        others = (place for place in ranking if not shows_itself(draft.example, self._pool[place], self._shared_groups))
        allowed = list(islice(others, self._neighbours))
        votes: dict[str, float] = defaultdict(float)
        for place in allowed:
            targets = self._pool[place].targets
            if targets:
                votes[str(targets[0])] += max(0.0, float(self._vectors[place] @ query))
        blank = Output(draft.example.id, "unparsable", trace=tuple(self._pool[place].id for place in allowed))
        if not votes:
            return blank
        label = max(votes, key=lambda name: votes[name])
        share = votes[label] / (sum(votes.values()) or 1.0)
        text = draft.contract.write(label)
        return replace(blank, status="answered", answer=label, text=text, confidence=share)
