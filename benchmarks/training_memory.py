"""Claim: what a training is said to need before its first step is within 15 % of the peak it then has.

usage: python benchmarks/training_memory.py [--only NAME ...]

Ours alone, every training a process of its own: three steps of `toolkit.tuning.train`, its forecast, and the peak of
the process's resident memory from the call on. Both stand for the whole process, model included; the error is told of
what the training adds, too. Time is told beside it, of the steps alone. Writes `training_memory.json`.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from curves import load, prompts_of
from measure import Bench, Peak, Result, Work, opened, parser, run_side, save, say, serve, stamp
from workloads import read_rows

STEPS, BOUND = 3, 0.15
TRAININGS: dict[str, Work] = {
    "rows of 64": {"batch": 16, "length": 64},
    "rows of 256": {"batch": 16, "length": 256},
    "rows of 1,024": {"batch": 8, "length": 1024},
    "rows of 4,096": {"batch": 2, "length": 4096},
    "one row of 64": {"batch": 1, "length": 64},
    "rows of 1,024, recomputed": {"batch": 8, "length": 1024, "settings": {"gradient_checkpointing": "on"}},
    "rows of 256, rank 128": {"batch": 16, "length": 256, "settings": {"rank": 128}},
    "rows of 256, dropout": {"batch": 16, "length": 256, "settings": {"dropout": 0.1}},
    "rows of 256, DoRA": {"batch": 16, "length": 256, "settings": {"method": "dora"}},
    "rows of 256, DoRA, recomputed": {
        "batch": 16,
        "length": 256,
        "settings": {"method": "dora", "gradient_checkpointing": "on"},
    },
    "rows of 256, all weights": {"batch": 16, "length": 256, "settings": {"method": "full"}},
}


def train_once(work: Work) -> Result:
    """One training."""
    from toolkit.rendering.prompt import TrainingSequence
    from toolkit.tuning import Forecast, TuneSettings, train

    loaded = load(work)
    length = work["length"]
    rows = prompts_of(loaded, work["texts"], work["batch"] * STEPS, length)
    taught = (False,) * (length // 2) + (True,) * (length - length // 2)
    sequences = [TrainingSequence(tuple(ids), taught) for ids in rows]
    settings = {"effective_batch_size": work["batch"], "epochs": 1, **work.get("settings", {})}
    told: list[Forecast] = []
    marks = [0.0]
    peak = Peak(loaded.module)
    with tempfile.TemporaryDirectory() as folder:
        train(
            loaded.module,
            sequences,
            TuneSettings(**settings),
            folder,
            on_forecast=told.append,
            on_step=lambda report: marks.append(marks[-1] + report.seconds),
        )
    (forecast,) = told
    assert forecast.memory_bytes is not None
    return {
        "forecast_bytes": forecast.memory_bytes,
        "peak_bytes": peak.base + peak.above(),
        "base_bytes": peak.base,
        "forecast_seconds": forecast.seconds,
        "seconds": marks[-1],
        "recompute": forecast.recompute,
    }


def measured(bench: Bench, name: str, dtype: str) -> Result:
    """A line."""
    texts = [row["text"] for row in read_rows(bench.data / "xquad_en" / "documents.jsonl")]
    began = time.perf_counter()
    made = run_side(bench, __file__, "ours", {**TRAININGS[name], "model": bench.model, "dtype": dtype, "texts": texts})
    off = made["forecast_bytes"] / made["peak_bytes"] - 1
    added = (made["forecast_bytes"] - made["base_bytes"]) / (made["peak_bytes"] - made["base_bytes"]) - 1
    line: dict[str, Any] = {"work": f"{name}, {dtype}", "dtype": dtype, **made, "off": off, "off_above_model": added}
    memory = f"{made['forecast_bytes'] / 1e9:.2f} GB forecast, {made['peak_bytes'] / 1e9:.2f} at the peak: {off:+.1%}"
    told = f"{memory} ({added:+.1%} above the model); {made['forecast_seconds']:.1f} s forecast, {made['seconds']:.1f}"
    say(f"  {line['work']}: {told} ({time.perf_counter() - began:.0f} s in all)")
    return {**line, "bound": BOUND, **stamp()}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", default=list(TRAININGS), choices=list(TRAININGS))
    arguments = options.parse_args()
    bench = opened(arguments)
    for dtype in bench.dtypes:
        for name in arguments.only:
            found = measured(bench, name, dtype)
            save(bench, "training_memory", [found], {"ours": {"versions": found.pop("versions")}})


if __name__ == "__main__" and not serve(ours=train_once):
    main()
