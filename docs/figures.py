"""Regenerates the figures of README.md and benchmarks/README.md from `benchmarks/results/*.json`.

usage: python docs/figures.py [--check] [--take RUN]

`--take RUN` first copies what the pages quote out of a run folder into the JSON file of its recipe; `--check` changes
nothing and exits with 1 where a page is stale. On a page the figures stand between `<!-- figures: <recipe> -->`, or
`<!-- bench: <claim> -->` for a benchmark's, and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmark_tables import table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
PLACE = re.compile(r"(<!-- (figures|bench): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def take(run: Path) -> None:
    """What the pages quote, out of a run folder."""
    comparison, ledger, manifest = (
        json.loads((run / f"{name}.json").read_text(encoding="utf-8")) for name in ("comparison", "ledger", "manifest")
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept = {"comparison": comparison, "ledger": ledger, "hardware": manifest["hardware"]}
    path = RESULTS / f"{comparison['recipe']}.json"
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def block(recipe: str) -> str:
    """A recipe's figures: the verdict table and its sentences."""
    results = json.loads((RESULTS / f"{recipe}.json").read_text(encoding="utf-8"))
    comparison, ledger = results["comparison"], results["ledger"]
    metric, baseline = comparison["metric"], comparison["baseline"]
    against = {row["a"]: row for row in comparison["contrasts"] if row["b"] == baseline and row["metric"] == metric}
    head = f"| strategy | {metric} [95 % CI] | against {baseline} | p (Holm) | verdict | "
    lines = [head + "tokens a query | fit |", "|---|---|---|---|---|---|---|"]
    for name, found in comparison["strategies"].items():
        lines.append(_row(name, found, against.get(name), ledger["strategies"][name]))
    sentences = [f"- {row['sentence']} (Holm p {_p(row)}: {row['verdict']})" for row in comparison["contrasts"]]
    seconds = sum(ledger["stages_seconds"].values())
    took = f"The run took {seconds / 60:.1f} minutes of work, {ledger['peak_memory_bytes'] / 1e9:.1f} GB at its peak."
    return "\n".join([*lines, "", *sentences, "", took])


def _row(name: str, found: dict[str, Any], against: dict[str, Any] | None, costs: dict[str, Any]) -> str:
    score = f"{_points(found['score'])} {_interval(found['interval'])}"
    tokens = sum(costs["per_query"]["prompt_tokens"].values()) + costs["per_query"]["completion_tokens"]
    cells = ["", "", ""]
    if against is not None:
        gap = f"{_points(against['difference'], '+')} {_interval(against['interval'])}"
        cells = [gap, _p(against), against["verdict"]]
    return f"| {name} | {score} | {' | '.join(cells)} | {tokens:.0f} | {costs['fixed']['fit_seconds']:.0f} s |"


def _p(contrast: dict[str, Any]) -> str:
    return "<.001" if contrast["p_holm"] < 0.001 else f"{contrast['p_holm']:.3f}"


def _points(value: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f}"


def _interval(bounds: list[float]) -> str:
    return f"[{_points(bounds[0])}, {_points(bounds[1])}]"


def _fresh(place: re.Match[str]) -> str:
    """A marked place with its figures written anew."""
    opening, kind, name, end = place.groups()
    return f"{opening}{block(name) if kind == 'figures' else table(RESULTS / f'{name}.json')}\n{end}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--take", type=Path)
    arguments = parser.parse_args()
    if arguments.take is not None:
        take(arguments.take)
    stale = False
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fresh = PLACE.sub(_fresh, text)
        stale |= fresh != text
        if not arguments.check:
            page.write_text(fresh, encoding="utf-8")
    return int(stale and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
