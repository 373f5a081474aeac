"""Claim: scoring 8 choices behind a long context nobody shares takes a quarter of lm-eval's time.

usage: python benchmarks/choice_context.py --peer-python PYTHON

Two XQuAD paragraphs and a question; the choices are its answer and seven others'. The peer on 24 questions.
"""

from __future__ import annotations

from choices import COMMAND, measured, score_ours, score_peer
from measure import opened, parser, save, serve
from workloads import reading_choices

TARGET = 4.0
QUESTIONS, PEER_QUESTIONS = 96, 24


def main() -> None:
    bench = opened(parser(__doc__).parse_args())
    asked = reading_choices(bench.data, 4 if bench.small else QUESTIONS)
    for dtype in bench.dtypes:
        rows = bench.asked_of_peer(PEER_QUESTIONS)
        work = f"8 choices behind two passages, {dtype}, a question"
        found, sides = measured(bench, __file__, work, asked, dtype, rows, TARGET)
        save(bench, "choice_context", [found], sides, peer="lm-eval, `hf`, batch 16", command=COMMAND)


if __name__ == "__main__" and not serve(ours=score_ours, peer=score_peer):
    main()
