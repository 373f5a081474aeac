"""Outputs as JSON lines: one line an output, no clocks."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from toolkit.tasks.output import Output, RetrievedPassage, Usage


def to_line(output: Output) -> dict[str, Any]:
    """A JSON object with every field of an output."""
    return asdict(output)


def from_line(record: dict[str, Any]) -> Output:
    """The output a record holds. Raises KeyError or TypeError for a record of another shape."""
    fields = dict(record)
    fields["retrieved"] = tuple(RetrievedPassage(**passage) for passage in fields["retrieved"])
    fields["usage"] = Usage(**fields["usage"])
    for name in ("dropped_demonstrations", "samples"):
        fields.setdefault(name, ())  # answers kept since before this was recorded
    for name in ("token_ids", "dropped_demonstrations", "citations", "tool_calls", "trace", "samples"):
        fields[name] = tuple(fields[name])
    for name in ("choice_scores", "prompt_token_ids"):
        if fields[name] is not None:
            fields[name] = tuple(fields[name])
    return Output(**fields)


def pretty(record: Any) -> bytes:
    """Indented JSON in the record's own order, with a final newline."""
    return (json.dumps(record, ensure_ascii=False, indent=2) + "\n").encode()
