"""What `task.yaml` and a task written into a recipe may say."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, field_validator, model_validator

from toolkit.tasks.contract import Kind

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Count = Annotated[int, Field(strict=True, ge=1)]
SourceKey = Literal["all", "train", "validation", "test"]
"""Whose rows a file holds; `all` is one file that `make` cuts into splits."""
By = Literal["group", "label", "none"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Labels(_Strict):
    """The closed set of answers, and how each is spelt for the model where that differs.

    Attributes:
        names: the labels; None takes them, sorted, from train.
        write: label -> the text the model reads and writes.
    """

    names: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    write: dict[str, Text] = Field(default_factory=dict)

    @field_validator("names")
    @classmethod
    def _once_each(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = sorted({name for name in names or () if (names or ()).count(name) > 1})
        if twice:
            raise ValueError(f"named more than once: {', '.join(twice)}")
        return names


class AnswerKeys(_Strict):
    """What both kinds of task say about answers and metrics.

    Attributes:
        labels: a list of names, or `{names: ..., write: ...}`; for choice tasks.
        question: replaces the contract's own instruction.
        abstention: the phrase that says "there is no answer".
        metrics: names, the first is the primary one; None takes those of the kind.
        shared_groups: why groups may appear in several splits.
        required: keys that every answer of a json task has.
    """

    name: Name
    kind: Kind
    labels: Labels = Labels()
    question: Text | None = None
    abstention: Text | None = None
    metrics: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    shared_groups: Text | None = None
    required: tuple[Text, ...] = ()

    @field_validator("labels", mode="before")
    @classmethod
    def _a_list_names_them(cls, value: object) -> object:
        return {"names": value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _keys_suit_the_kind(self) -> AnswerKeys:
        if self.kind != "choice" and self.labels != Labels():
            raise ValueError(f"`labels` belongs to kind choice, found kind {self.kind}")
        if self.kind != "json" and self.required:
            raise ValueError(f"`required` belongs to kind json, found kind {self.kind}")
        return self


class TaskFile(AnswerKeys):
    """`task.yaml`. `corpus` is a path inside the task's folder; by default `corpus/`, where that exists."""

    corpus: Text | None = None


class Data(_Strict):
    """Where the rows come from: `hub` with its `revision`, or `files` (.jsonl, .csv, .parquet).

    `files` is one path, or a path for each of train, validation, test. Of a hub dataset, `split` takes one split;
    without it, those named train, validation and test are taken.
    """

    hub: Text | None = None
    revision: Text | None = None
    config: Text | None = None
    split: Text | None = None
    files: Annotated[dict[SourceKey, Text], Field(min_length=1)] | None = None

    @field_validator("files", mode="before")
    @classmethod
    def _one_file_holds_all(cls, value: object) -> object:
        return {"all": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.hub is None) == (self.files is None):
            raise ValueError("needs exactly one of `hub` and `files`")
        if self.hub is not None and self.revision is None:
            raise ValueError("`hub` needs a `revision`: a commit or tag, so that the rows stay the same")
        if self.files is not None and (self.revision or self.config or self.split):
            raise ValueError("`revision`, `config` and `split` belong to `hub`")
        if self.files is not None and len({"all", "train"} & set(self.files)) != 1:
            raise ValueError("`files` is one path, or names `train` and whichever of `validation` and `test` there are")
        return self


class SpanColumns(_Strict):
    """Columns of the gold span: half-open characters of a document."""

    document: Text
    start: Text
    end: Text


class Columns(_Strict):
    """Which column is what.

    Attributes:
        inputs: name shown to templates -> column.
        target: the answer, or (choice, text) a list of accepted answers; nothing there means abstain.
        id: unique; None numbers the rows.
        group: the source a row shares with others.
        spans: where the answer stands in the corpus.
        slices: named subsets; text or a list.
    """

    inputs: Annotated[dict[Text, Text], Field(min_length=1)]
    target: Text
    id: Text | None = None
    group: Text | None = None
    spans: SpanColumns | None = None
    slices: Text | None = None


class Make(_Strict):
    """How splits are drawn: how many rows each, seeded.

    Attributes:
        train, validation, test: rows. A split with a file of its own is sampled from it (None: all of it); others
            are taken out of train's file, and train without a number is what remains.
        by: `label` keeps the labels' shares, `group` never cuts a group, `none` draws rows. None means group where
            `columns.group` is given, else label for choice tasks, else none.
        seed: one integer.
        distinct: identical rows are taken once, and near-duplicates never land in two splits.
    """

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None
    by: By | None = None
    seed: Annotated[int, Field(strict=True)] = 0
    distinct: Annotated[bool, Field(strict=True)] = True


class InlineTask(AnswerKeys):
    """A task written into a recipe, over files or a hub dataset. Paths are relative to the recipe.

    Attributes:
        keep: column -> the values whose rows stay.
        corpus: a folder or a .jsonl file.
    """

    data: Data
    columns: Columns
    keep: dict[str, tuple[JsonValue, ...]] = Field(default_factory=dict)
    make: Make | None = None
    corpus: Text | None = None

    @field_validator("keep", mode="before")
    @classmethod
    def _one_value_is_a_list_of_one(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {key: kept if isinstance(kept, list | tuple) else [kept] for key, kept in value.items()}

    @model_validator(mode="after")
    def _make_suits_the_rest(self) -> InlineTask:
        if self.make is None:
            if self.data.files is not None and "all" in self.data.files:
                raise ValueError("one file for all splits needs `make: {train: ..., validation: ..., test: ...}`")
        elif self.make.by == "group" and self.columns.group is None:
            raise ValueError("`make.by: group` needs `columns.group`")
        elif self.make.by == "label" and self.kind != "choice":
            raise ValueError(f"`make.by: label` belongs to kind choice, found kind {self.kind}")
        return self

    @property
    def split_by(self) -> By:
        """What splitting respects, defaults filled in."""
        if self.make is not None and self.make.by is not None:
            return self.make.by
        if self.columns.group is not None:
            return "group"
        return "label" if self.kind == "choice" else "none"
