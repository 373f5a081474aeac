"""One row of a task as an Example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from toolkit.tasks.contract import is_text
from toolkit.tasks.example import Example, Span
from toolkit.tasks.images import ADVICE, holds_image
from toolkit.tasks.problems import described
from toolkit.tasks.tables import Row

Filled = Annotated[str, StringConstraints(min_length=1)]


@dataclass(frozen=True)
class Located:
    """An example and its place, as `file:line`."""

    example: Example
    where: str


class SpanRow(BaseModel):
    """A gold span: half-open characters of a document's original text."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    document: Filled
    start: Annotated[int, Field(strict=True, ge=0)]
    end: Annotated[int, Field(strict=True, ge=0)]

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> SpanRow:
        if self.end <= self.start:
            raise ValueError(f"a span ends after its start, found start {self.start}, end {self.end}")
        return self


class ExampleRow(BaseModel):
    """What a line of train.jsonl, validation.jsonl or test.jsonl may say."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: Filled
    inputs: Annotated[dict[Filled, JsonValue], Field(min_length=1)]
    targets: tuple[JsonValue, ...] = ()
    target: JsonValue = None
    choices: Annotated[tuple[Filled, ...], Field(min_length=1)] | None = None
    group: Filled | None = None
    spans: tuple[SpanRow, ...] = ()
    slices: tuple[Filled, ...] = ()
    rejected: tuple[JsonValue, ...] = ()

    @field_validator("inputs")
    @classmethod
    def _no_image(cls, inputs: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name, value in inputs.items():
            if holds_image(value):
                raise ValueError(f"'{name}' is an image: {ADVICE}")
        return inputs

    @model_validator(mode="after")
    def _one_of_target_and_targets(self) -> ExampleRow:
        if len(self.model_fields_set & {"target", "targets"}) != 1:
            raise ValueError(
                "a row has either 'targets' (a list of accepted answers; empty means abstain) or 'target' (one answer)"
            )
        return self


def parse_row(row: Row, problems: list[str]) -> Located | None:
    """The row as an example; None, with the reasons added to `problems`, where it is none."""
    try:
        parsed = ExampleRow.model_validate(dict(row.values))
    except ValidationError as error:
        problems.extend(f"{row.where}: {message}" for _, message in described(error, ExampleRow))
        return None
    if not is_text(parsed.model_dump()):
        problems.append(f"{row.where}: holds half a surrogate pair, which is no text")
        return None
    example = Example(
        id=parsed.id,
        inputs=parsed.inputs,
        targets=(parsed.target,) if "target" in parsed.model_fields_set else parsed.targets,
        choices=parsed.choices,
        group=parsed.group,
        spans=tuple(Span(span.document, span.start, span.end) for span in parsed.spans),
        slices=parsed.slices,
        rejected=parsed.rejected,
    )
    return Located(example, row.where)
