"""Adapter -> Part: the settings of one way of adapting a model, and what fitting them gives.

An adapter is frozen settings whose fields are its YAML. `fit` sees the task without its test split and gives a part.
A part may do any of: extend drafts, offer weights, respond. Parts apply in list order; a later part's `respond`
wraps an earlier one's, and the innermost renders, generates or scores, and parses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict, PrivateAttr

from toolkit.inference.model import FoundationModel, Weights
from toolkit.rendering.draft import Draft
from toolkit.rendering.renderer import Renderer
from toolkit.tasks.example import Example
from toolkit.tasks.output import Output
from toolkit.tasks.task import FittingSplit, TrainingTask

if TYPE_CHECKING:
    from typing import Self

    from toolkit.evaluation import Metric
    from toolkit.meter import Meter
    from toolkit.retrieval import Encoder

Dependency = Literal["model", "encoder", "corpus"]
Responder = Callable[[Sequence[Draft]], list[Output]]


class Part:
    """A fitted adapter. Every method has a neutral default: override what the part does."""

    weights: Weights | None = None
    """Adapted weights; at most one part of a stack offers them."""

    def extend(self, drafts: Sequence[Draft]) -> list[Draft]:
        """The drafts with demonstrations, passages or turns added, in the same order."""
        return list(drafts)

    def respond(self, drafts: Sequence[Draft], answer: Responder) -> list[Output]:
        """One output a draft, in order; `answer` is the next inner responder."""
        return answer(drafts)

    def save(self, folder: Path) -> None:
        """Writes what `Adapter.load` needs into an existing folder. Nothing by default: the part is fitted again."""

    def describe(self) -> Mapping[str, Any]:
        """Facts for the ledger and the report: sizes in bytes, counts, shares."""
        return {}


class Answerer(Protocol):
    """A fitted strategy as another one's adapter sees it."""

    def answer(self, examples: Sequence[Example]) -> list[Output]: ...


class FitContext(Protocol):
    """What fitting may see. The test split is not in it."""

    @property
    def task(self) -> TrainingTask: ...

    @property
    def model(self) -> FoundationModel: ...

    @property
    def renderer(self) -> Renderer: ...

    @property
    def encoder(self) -> Encoder:
        """The recipe's embedder, loaded when first asked for."""

    @property
    def primary(self) -> Metric:
        """The metric that `validate` reports."""

    @property
    def seed(self) -> int: ...

    @property
    def folder(self) -> Path:
        """A folder for work in progress; it survives a killed process and is gone once the part is saved."""

    @property
    def meter(self) -> Meter: ...

    def cached(self, content: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        """A folder built once for its content key (settings and digests, never names) and kept in the Store."""

    def add_earlier(self, seconds: float) -> None:
        """Adds to what fitting took: work of killed processes, from which this one goes on."""

    def drafts(self, split: FittingSplit) -> list[tuple[Example, Draft]]:
        """Labelled examples with their drafts, as the parts before this one build and fit them to the context."""

    def validate(self, part: Part) -> float:
        """The primary metric on validation of the stack up to this part. Every call is counted as a trial.

        Once for each of a part's weights: those already asked for, by a process since killed too, are known.
        """

    def system(self, name: str) -> Answerer:
        """Another strategy of the recipe, fitted; it must be named by `uses`."""


class Adapter(BaseModel):
    """Settings of one adaptation. Subclass, declare fields, implement `fit`, install it under an entry point.

    Class attributes:
        version: of the part's code; raise it when the same settings give another part.
        control: shown as a control, never as a candidate; the only adapters whose parts see gold spans.
        tunes: its parts offer weights, so the model's own must be here.
        trained_elsewhere: the weights its parts offer learnt before this run, from data that nobody here knows.
        places: fields that say where something lies. `content` gives its digest, which stands for them in the part's
            key: the same thing in another place is the same part.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: ClassVar[str] = "1"
    control: ClassVar[bool] = False
    tunes: ClassVar[bool] = False
    trained_elsewhere: ClassVar[bool] = False
    places: ClassVar[frozenset[str]] = frozenset()

    _recipe: Path | None = PrivateAttr(default=None)

    def beside(self, recipe: Path) -> Self:
        """The same settings as a recipe's: what they name by a relative path is also looked for beside its file."""
        copied = self.model_copy()
        copied._recipe = recipe
        return copied

    @property
    def seeded(self) -> bool:
        """Whether the seed matters. A strategy without a seeded adapter runs once."""
        return False

    @property
    def learns_answers(self) -> bool:
        """Whether weights that its part offers were trained on the train split's answers, behind their prompts."""
        return not self.trained_elsewhere

    @property
    def makes_trials(self) -> bool:
        """Whether fitting calls `validate`: contrasts with strategies that do not are refused before anything runs."""
        return False

    def fit(self, context: FitContext) -> Part:
        """The part these settings give on this task and model."""
        raise TypeError(f"{type(self).__name__} does not implement `fit`")

    def load(self, folder: Path, context: FitContext) -> Part:
        """A saved part, read back. Fits again by default."""
        return self.fit(context)

    def uses(self) -> tuple[str, ...]:
        """Names of strategies that must be fitted first."""
        return ()

    def depends_on(self) -> frozenset[Dependency]:
        """What else the fitted part depends on, besides settings, training data and the parts before it."""
        return frozenset(get_args(Dependency))

    def content(self) -> Mapping[str, Any]:
        """Digests of what the settings name rather than hold (a template file, say), for the part's key."""
        return {}

    def questions(self) -> Iterable[tuple[str, str]]:
        """What is asked in data that fitting learns from besides the task's: (`file:line`, text) of each question.

        Fitting does not know the test split; who does looks there for test questions before anything is computed.
        """
        return ()

    def check(self, task: TrainingTask) -> list[str]:
        """What in these settings cannot work on this task, before anything is computed."""
        return []

    def check_model(self, model: FoundationModel) -> list[str]:
        """What in these settings cannot work on this model, before anything is computed."""
        return []
