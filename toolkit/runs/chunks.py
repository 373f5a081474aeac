"""Chunks: answering in pieces of fixed ids, each computed whole and appended once.

In bf16 a result depends on what else is in its batch. Chunks are cut before work starts and no batch spans one, so a
killed run goes on with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.inference import FoundationModel
from toolkit.json_lines import dumps
from toolkit.meter import Meter
from toolkit.runs.hosted import replayed_wall_seconds
from toolkit.runs.records import from_line, to_line
from toolkit.store import Store, key_of
from toolkit.strategies.system import System
from toolkit.tasks.example import Example
from toolkit.tasks.output import Output

RECORD = "chunk.json"


def answer_in_chunks(
    system: System,
    examples: Sequence[Example],
    size: int,
    path: Path,
    store: Store | None,
    meter: Meter,
    seed: int | None,
    models: Collection[FoundationModel],
) -> list[Output]:
    """All outputs, from the file where they stand, from the Store, or from the system.

    Args:
        store: None for what must not outlast this run: a hosted model's answers expire, and it keeps them itself.
        models: all of the run, for a strategy may use another one's.

    Raises:
        RunError: the disk cannot be written.
        ToolkitError: whatever answering finds wrong; finished chunks are kept.
    """
    chunks = [tuple(examples[start : start + size]) for start in range(0, len(examples), size)]
    keys = [chunk_key(system, chunk) for chunk in chunks]
    outputs = _finished(path, chunks, keys)
    if store is None and len(outputs) < len(examples):
        path.unlink(missing_ok=True)  # some may be too old to stand beside new ones: the model's journal knows which
        outputs = []
    done = -(-len(outputs) // size)
    name = system.strategy.name
    meter.event("answer", strategy=name, seed=seed, chunks=len(chunks), done=done)
    for number in range(done, len(chunks)):
        record = _chunk(system, chunks[number], keys[number], store, models)
        found = [from_line(output) for output in record["outputs"]]
        _append(path, keys[number], record["outputs"])
        outputs += found
        meter.event("chunk", strategy=name, seed=seed, chunk=number + 1, chunks=len(chunks), examples=len(outputs))
        meter.event(
            "stage",
            stage="answer",
            strategy=name,
            seed=seed,
            chunk=number,
            seconds=record["seconds"],
            cached=record["cached"],
            examples=len(found),
            prompt_tokens=sum(sum(output.usage.prompt_tokens.values()) for output in found),
            completion_tokens=sum(output.usage.completion_tokens for output in found),
        )
    return outputs


def chunk_key(system: System, chunk: Sequence[Example]) -> str:
    """Of everything a chunk's answers depend on."""
    seen = [asdict(example.unlabelled(keep_spans=system.strategy.control)) for example in chunk]
    return key_of({"system": system.key, "examples": seen})


def _chunk(
    system: System, chunk: Sequence[Example], key: str, store: Store | None, models: Collection[FoundationModel]
) -> dict[str, Any]:
    stored = None if store is None else store.taking(key, _stored)
    if stored is not None:
        return {**stored, "cached": True}
    replayed, started = replayed_wall_seconds(models), time.perf_counter()
    outputs = [to_line(output) for output in system.answer(chunk)]
    seconds = time.perf_counter() - started + replayed_wall_seconds(models) - replayed
    record = {"outputs": outputs, "seconds": seconds}
    if store is not None:
        store.put(key, lambda folder: _write(folder / RECORD, record))
    return {**json.loads(dumps(record)), "cached": False}


def _stored(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return found


def _write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(dumps(record), encoding="utf-8")


def _append(path: Path, key: str, outputs: Sequence[dict[str, Any]]) -> None:
    """One write for the whole chunk, on disk before the next begins."""
    text = "".join(dumps(_line(key, output)) + "\n" for output in outputs)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}; finished chunks are kept: run the command again") from error


def _line(key: str, output: dict[str, Any]) -> dict[str, Any]:
    """A line holds its own digest: an answer that was changed in the file is computed again, not believed."""
    return {"chunk": key, "digest": hashlib.sha256(dumps(output).encode()).hexdigest()[:16], "output": output}


def _finished(path: Path, chunks: Sequence[Sequence[Example]], keys: Sequence[str]) -> list[Output]:
    """Outputs of the leading chunks that stand whole under today's keys; the rest of the file is cut off."""
    if not path.exists():
        return []
    raw = path.read_bytes()
    outputs: list[Output] = []
    kept = position = 0
    lines = raw.splitlines(keepends=True)
    for chunk, key in zip(chunks, keys, strict=True):
        block = lines[position : position + len(chunk)]
        found = [_read(line, key) for line in block]
        if len(block) < len(chunk) or [output.example_id for output in found if output] != [e.id for e in chunk]:
            break
        outputs += [output for output in found if output]
        position += len(chunk)
        kept += sum(map(len, block))
    if kept < len(raw):
        with path.open("rb+") as file:
            file.truncate(kept)
    return outputs


def _read(line: bytes, key: str) -> Output | None:
    try:
        record = json.loads(line)
        whole = line.endswith(b"\n") and record == _line(key, record["output"])
        return from_line(record["output"]) if whole else None
    except (ValueError, KeyError, TypeError):
        return None
