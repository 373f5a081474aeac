"""A run folder as the report reads it: the files, and nothing that is not in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import DataError
from toolkit.evaluation import ScoreRow, UsageRow, read_scores, read_usage

Record = Mapping[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """What a run left behind.

    Attributes:
        name: of the folder; its place is not part of the report.
        ledger: empty where the run was killed before it was written.
        dtype_reasons: why each model was loaded in its dtype, by model.
    """

    name: str
    comparison: Record
    ledger: Record
    manifest: Record
    scores: tuple[ScoreRow, ...]
    usage: tuple[UsageRow, ...]
    dtype_reasons: Mapping[str, str]
    root: Path

    @property
    def strategies(self) -> Mapping[str, Record]:
        found: Mapping[str, Record] = self.comparison["strategies"]
        return found

    @property
    def ranked(self) -> list[str]:
        """Strategies as the report lists them: see `ranked`."""
        return ranked(self.comparison)

    @property
    def trained_elsewhere(self) -> list[str]:
        """Strategies whose weights learnt before this run, from data that is unknown here; ranked."""
        return [name for name in self.ranked if self.strategies[name].get("trained_elsewhere")]

    def costs(self, strategy: str) -> Record:
        """A strategy's ledger entry, empty where there is none."""
        return entry(self.ledger, strategy)

    def outputs(self, strategy: str, seed: int | None) -> dict[str, Record]:
        """Outputs by example id; empty where the file is not there."""
        name = "seed-none" if seed is None else f"seed-{seed}"
        lines = _lines(self.root / "outputs" / strategy / f"{name}.jsonl")
        return {str(line["output"]["example_id"]): line["output"] for line in lines}


def read_run(root: Path) -> RunFiles:
    """Reads a run folder.

    Raises:
        DataError: a file that a finished run has is missing, or is not what it should be.
    """
    comparison = _object(root / "comparison.json")
    if missing := [key for key in ("strategies", "contrasts", "metric") if key not in comparison]:
        raise DataError(f"{root / 'comparison.json'}: no {', '.join(missing)} in it: run the recipe to its end")
    ledger = root / "ledger.json"
    return RunFiles(
        name=root.resolve().name,
        comparison=comparison,
        ledger=_object(ledger) if ledger.exists() else {},
        manifest=_object(root / "manifest.json"),
        scores=tuple(read_scores(root / "scores.parquet")),
        usage=tuple(read_usage(root / "usage.parquet")),
        dtype_reasons=_dtype_reasons(root / "events.jsonl"),
        root=root,
    )


def ranked(comparison: Record) -> list[str]:
    """Candidates by falling score, then controls, which have no rank; equals in the recipe's order."""
    strategies: Mapping[str, Record] = comparison["strategies"]
    candidates = [name for name, facts in strategies.items() if not facts["control"]]
    controls = [name for name, facts in strategies.items() if facts["control"]]
    return sorted(candidates, key=lambda name: -float(strategies[name]["score"])) + controls


def entry(ledger: Record, strategy: str) -> Record:
    found: Record = ledger.get("strategies", {}).get(strategy, {})
    return found


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file: run the recipe to its end") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not JSON ({error}): run the recipe to its end") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds no JSON object: run the recipe to its end")
    return found


def _dtype_reasons(path: Path) -> dict[str, str]:
    loaded = [line for line in _lines(path) if line.get("event") == "model" and {"model", "dtype", "why"} <= set(line)]
    return {str(line["model"]): f"{line['dtype']} ({line['why']})" for line in loaded}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole JSON lines; a torn last one is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
