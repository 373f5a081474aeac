"""Claim: greedy answers to retrieved passages come 1.4 times (bf16) and 1.9 times (fp32) as fast as from `generate`.

usage: python benchmarks/decoding.py --peer-python PYTHON [--skip-batch]

48 XQuAD questions behind two passages (300 to 600 tokens), at most 32 new tokens. `generate_batch` (continuous
batching) on the first 16 of them, and ours on the same 16.
"""

from __future__ import annotations

from generating import (
    COMMAND,
    SMALL_BLOCKS,
    against_generate,
    chat_ids,
    continuous_peer,
    decode_ours,
    decode_peer,
    line,
    stops,
)
from measure import Bench, Result, opened, parser, run_side, save, serve
from workloads import reading_chats

PROMPTS, LEAST, MOST = 48, 300, 600
BATCH_PROMPTS = 16
WORK = "passages and a question"
TARGETS = {"generate, bfloat16": 1.4, "generate, float32": 1.9, "generate, tuned, float32": 1.4}
BATCH_TARGET = 4.0


def against_batch(bench: Bench, prompts: list[list[int]], dtype: str) -> tuple[list[Result], dict[str, Result]]:
    """Ours against continuous batching, with its defaults and with a cache made for few requests."""
    few = prompts[: 2 if bench.small else BATCH_PROMPTS]
    common = {"model": bench.model, "folder": bench.folder, "dtype": dtype, "prompts": few}
    common |= {"stop": stops(bench.folder), "repeats": bench.repeats}
    ours = run_side(bench, __file__, "ours", common)
    lines = []
    for name, blocks in (("generate_batch", {}), ("generate_batch, small", SMALL_BLOCKS)):
        peer = run_side(bench, __file__, "peer_batch", {**common, "blocks": blocks})
        work = f"{WORK}, {dtype}, an answer, against `{name}`"
        lines.append(line(work, dtype, ours, peer, BATCH_TARGET))
    return lines, {"ours": ours, "peer": peer}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--skip-batch", action="store_true", help="leave `generate_batch` out")
    arguments = options.parse_args()
    bench = opened(arguments)
    count = 4 if bench.small else bench.peer_rows or PROMPTS
    prompts = chat_ids(bench.folder, reading_chats(bench.data), count, LEAST, MOST)
    more = {"peer": "transformers", "command": COMMAND, "prompt_tokens": sorted(map(len, prompts))}
    for dtype in bench.dtypes:
        lines, sides = against_generate(bench, __file__, WORK, prompts, dtype, TARGETS)
        save(bench, "decoding", lines, sides, **more)
        if not arguments.skip_batch:
            lines, sides = against_batch(bench, prompts, dtype)
            save(bench, "decoding", lines, sides, **more)


if __name__ == "__main__" and not serve(ours=decode_ours, peer=decode_peer, peer_batch=continuous_peer):
    main()
