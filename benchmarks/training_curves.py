"""Goal: a training step's time and memory grow little faster than its tokens, whatever the length of the rows.

usage: python benchmarks/training_curves.py [--lengths 128 512 1024 2048 4096]

Ours alone, every point a process of its own. A step takes running text of 4,096 tokens in all, cut into rows of one
length and supervised throughout, which costs the head the most. The first step is not counted. The limit is that of
`training.py`; attention, which is not in it, is what longer rows add.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from curves import limit, load, prompts_of
from measure import Bench, Peak, Result, Work, opened, parser, run_side, save, say, serve, stamp
from tuned import IGNORED, Ours, epoch_flops, supervised, tokens
from workloads import read_rows

STEP_TOKENS = 4096


def step(work: Work) -> Result:
    """One point: `repeats` steps after a first one."""
    loaded = load(work)
    texts = prompts_of(loaded, work["texts"], work["batch"], work["length"])
    rows = [{"ids": ids, "labels": [IGNORED, *ids[1:]]} for ids in texts]
    peak = Peak(loaded.module)
    ours = Ours(loaded.module, rows)
    ours.prepare()
    seconds = []
    for _ in range(1 + work["repeats"]):
        started = time.perf_counter()
        ours.epoch(len(rows))
        seconds.append(time.perf_counter() - started)
    above, best, took = peak.above(), limit(loaded.module), statistics.median(seconds[1:])
    flops = epoch_flops(loaded.module, tokens(rows), supervised(rows))
    return {
        "seconds": seconds[1:],
        "cold_seconds": seconds[0],
        "tokens": tokens(rows),
        "tokens_per_second": tokens(rows) / took,
        "peak_bytes": above,
        "step": ours.how,
        "limit_flops": best,
        "share_of_limit": flops / took / best,
    }


def points(bench: Bench, dtype: str, lengths: Sequence[int]) -> list[Result]:
    """Runs the points of a dtype."""
    texts = [row["text"] for row in read_rows(bench.data / "xquad_en" / "documents.jsonl")]
    found = []
    for length in lengths:
        batch = max(1, (256 if bench.small else STEP_TOKENS) // length)
        work = {"model": bench.model, "dtype": dtype, "batch": batch, "length": length, "texts": texts}
        made = run_side(bench, __file__, "ours", {**work, "repeats": bench.repeats})
        named = {"work": f"{dtype}, {batch} x {length}", "dtype": dtype, "batch": batch, "length": length}
        found.append({**named, **made, **stamp()})
        told = f"{made['tokens_per_second']:.0f} tokens/s, {made['share_of_limit']:.0%} of the limit"
        say(f"  {named['work']}: {told}, {made['peak_bytes'] / 1e6:.0f} MB above the model; {made['step']}")
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 1024, 2048, 4096])
    arguments = options.parse_args()
    bench = opened(arguments)
    for dtype in bench.dtypes:
        found = points(bench, dtype, arguments.lengths[:2] if bench.small else arguments.lengths)
        versions = found[-1]["versions"]
        for one in found:
            del one["versions"]
        save(bench, "training_curves", found, {"ours": {"versions": versions}})


if __name__ == "__main__" and not serve(ours=step):
    main()
