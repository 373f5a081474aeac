"""Claim: where prompts share their demonstrations, greedy answers come four times as fast as from `generate`.

usage: python benchmarks/decoding_shared.py --peer-python PYTHON

32 short questions behind 8 demonstrations all share (about 1,275 tokens), at most 32 new tokens.
"""

from __future__ import annotations

from generating import COMMAND, against_generate, chat_ids, decode_ours, decode_peer
from measure import opened, parser, save, serve
from workloads import shared_chats

PROMPTS, LEAST, MOST = 32, 1000, 1600
WORK = "shared demonstrations and a question"
TARGETS = {"generate, bfloat16": 4.0, "generate, float32": 4.0}


def main() -> None:
    bench = opened(parser(__doc__).parse_args())
    count = 4 if bench.small else bench.peer_rows or PROMPTS
    prompts = chat_ids(bench.folder, shared_chats(bench.data, count), count, LEAST, MOST)
    more = {"peer": "transformers", "command": COMMAND, "prompt_tokens": sorted(map(len, prompts))}
    for dtype in bench.dtypes:
        lines, sides = against_generate(bench, __file__, WORK, prompts, dtype, TARGETS)
        save(bench, "decoding_shared", lines, sides, **more)


if __name__ == "__main__" and not serve(ours=decode_ours, peer=decode_peer):
    main()
