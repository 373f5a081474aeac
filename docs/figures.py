"""Regenerates the README's figures from `benchmarks/results/quickstart.json`.

usage: python docs/figures.py [--check] [--take RUN]

`--take RUN` first copies what the README quotes out of a run folder into that JSON file; `--check` changes nothing and
exits with 1 where README.md is stale.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "quickstart.json"
BEGIN, END = "<!-- quickstart:begin -->", "<!-- quickstart:end -->"


def take(run: Path) -> None:
    """What the README quotes, out of a run folder."""
    comparison, ledger, manifest = (
        json.loads((run / f"{name}.json").read_text(encoding="utf-8")) for name in ("comparison", "ledger", "manifest")
    )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    kept = {"comparison": comparison, "ledger": ledger, "hardware": manifest["hardware"]}
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def block() -> str:
    """The README's block: the verdict table and its sentences."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    comparison, ledger = results["comparison"], results["ledger"]
    against = {row["a"]: row for row in comparison["contrasts"] if row["b"] == comparison["baseline"]}
    head = f"| strategy | {comparison['metric']} [95 % CI] | against {comparison['baseline']} | p (Holm) | verdict | "
    lines = [head + "tokens a query | fit |", "|---|---|---|---|---|---|---|"]
    for name, found in comparison["strategies"].items():
        lines.append(_row(name, found, against.get(name), ledger["strategies"][name]))
    sentences = [f"- {row['sentence']}" for row in comparison["contrasts"]]
    seconds = sum(ledger["stages_seconds"].values())
    took = f"The run took {seconds / 60:.1f} minutes of work, {ledger['peak_memory_bytes'] / 1e9:.1f} GB at its peak."
    return "\n".join([*lines, "", *sentences, "", took])


def _row(name: str, found: dict[str, Any], against: dict[str, Any] | None, costs: dict[str, Any]) -> str:
    score = f"{_points(found['score'])} {_interval(found['interval'])}"
    tokens = sum(costs["per_query"]["prompt_tokens"].values()) + costs["per_query"]["completion_tokens"]
    cells = ["", "", ""]
    if against is not None:
        p = "<.001" if against["p_holm"] < 0.001 else f"{against['p_holm']:.3f}"
        cells = [f"{_points(against['difference'], '+')} {_interval(against['interval'])}", p, against["verdict"]]
    return f"| {name} | {score} | {' | '.join(cells)} | {tokens:.0f} | {costs['fixed']['fit_seconds']:.0f} s |"


def _points(value: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f}"


def _interval(bounds: list[float]) -> str:
    return f"[{_points(bounds[0])}, {_points(bounds[1])}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--take", type=Path)
    arguments = parser.parse_args()
    if arguments.take is not None:
        take(arguments.take)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    fresh = f"{before}{BEGIN}\n{block()}\n{END}{rest.split(END)[1]}"
    if arguments.check:
        return int(fresh != text)
    readme.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
