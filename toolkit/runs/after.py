"""After answering: what merging would change, the prompt that tuned weights expect, and one-by-one timings."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.errors import DataError
from toolkit.inference import FoundationModel, LocalModel
from toolkit.meter import Meter
from toolkit.models.four_bit import is_quantised
from toolkit.rendering.draft import Draft
from toolkit.runs.chunks import chunk_key
from toolkit.runs.hosted import replayed_seconds
from toolkit.runs.records import pretty
from toolkit.store import Store, key_of, write_atomically
from toolkit.strategies.system import System
from toolkit.tasks.example import Example
from toolkit.tasks.task import TrainingTask

MERGE = "merge.json"
MERGE_EXAMPLES = 64
"""Validation examples on which merged and unmerged answers are compared."""


def merge_report(
    system: System, base: FoundationModel, validation: Sequence[Example], path: Path, store: Store, meter: Meter
) -> dict[str, Any] | None:
    """The share of answers that merging the adapter into the weights (in fp32) would change.

    Kept in the Store, and written beside the system. None, with a notice, where a GPU has no room for merged weights:
    of a base in 4 bits they are four times its size, and a run must not end there.
    """
    import torch

    asked = validation[:MERGE_EXAMPLES]

    key = key_of({"merge": chunk_key(system, asked)})
    try:
        kept = store.taking(key, lambda folder: (folder / MERGE).read_bytes())
        if kept is None:
            meter.event("merge", strategy=system.strategy.name, examples=len(asked))
            kept = made = pretty(_merged_against_beside(system, base, asked))
            store.put(key, lambda folder: _write(folder / MERGE, made))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        said = "merged weights do not fit into the memory, so what merging would change is not measured"
        meter.event("notice", text=f"{system.strategy.name}: {said}", settled=True)
        return None
    write_atomically(path, kept)
    report: dict[str, Any] = json.loads(kept)
    return report


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _merged_against_beside(system: System, base: FoundationModel, asked: Sequence[Example]) -> dict[str, Any]:
    merged = System(system.strategy, system.parts, base, system.conditions, merged=True)
    beside = system.answer(asked)
    within = merged.answer(asked)
    changed = sum(
        (one.status, one.answer) != (other.status, other.answer) for one, other in zip(beside, within, strict=True)
    )
    share = changed / max(1, len(asked))
    dequantised = isinstance(base, LocalModel) and is_quantised(base.module)
    facts = {"examples": len(asked), "changed": changed, "share": share, "dequantised": dequantised}
    return {"system": system.key, **facts}


def prompt_report(system: System, task: TrainingTask, path: Path) -> None:
    """Writes beside a system the prompt that its weights are asked with, a name in braces for each input.

    Passages and demonstrations are left out: they are other parts' and data. `text` is what a plain tokeniser turns
    into the very ids that are sent; None where there is no such text.
    """
    shown = [*task.validation, *task.train][0]
    (draft,) = system.extended([shown.unlabelled(keep_spans=system.strategy.control)])
    blank = Example("blank", {name: f"{{{name}}}" for name in shown.inputs})
    template, conditions = draft.template, system.conditions
    report: dict[str, Any] = {
        "template": {**asdict(template), "digest": template.digest},
        "instruction": draft.contract.instruction,
        "inputs": list(shown.inputs),
        "text": _text_of(Draft(blank, template, draft.contract), system),
        "answer_by": conditions.answer_by,
        "max_new_tokens": conditions.sampling.max_new_tokens,
        "stop_ids": sorted(system.renderer.stop_ids),
    }
    write_atomically(path, pretty(report))


def _text_of(draft: Draft, system: System) -> str | None:
    tokenizer = system.renderer.tokenizer
    try:
        ids = system.renderer.prompt(draft).token_ids
    except DataError:
        return None  # the template wants more of an input than that it is a text
    if ids is None or tokenizer is None:
        return None
    text = str(tokenizer.decode(list(ids)))
    named = all(str(value) in text for value in draft.example.inputs.values())
    same = tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) == ids
    return text if named and same else None


def time_one_by_one(
    system: System,
    examples: Sequence[Example],
    seed: int | None,
    known: int,
    models: Collection[FoundationModel],
    meter: Meter,
) -> None:
    """Answers examples one at a time, past every cache, each a `latency` stage; `known` were timed before.

    A hosted model is not asked (and paid) twice: its answers count with the seconds they took when they were given.

    Args:
        models: all of the run, for a strategy may use another one's.
    """
    for number, example in enumerate(examples):
        if number < known:
            continue
        replayed, started = replayed_seconds(models), time.perf_counter()
        system.answer([example])
        seconds = time.perf_counter() - started + replayed_seconds(models) - replayed
        name = system.strategy.name
        meter.event(
            "stage", stage="latency", strategy=name, seed=seed, system=system.key, example=example.id, seconds=seconds
        )
        meter.event("timed", strategy=name, done=number + 1, examples=len(examples))
