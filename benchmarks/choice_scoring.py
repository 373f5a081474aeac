"""Claim: scoring the choices of an 8-shot prompt takes a hundredth of lm-eval's time at 20 labels, a fifteenth at 4.

usage: python benchmarks/choice_scoring.py --peer-python PYTHON [--labels 20 7 4] [--shots 8]

banking77, 200 messages (fewer where the labels have fewer), the peer on 40 of them in bf16 and on 8 in fp32.
"""

from __future__ import annotations

from choices import COMMAND, measured, score_ours, score_peer
from measure import opened, parser, save, serve
from workloads import SHOTS, banking_choices, card_labels

TARGETS = {20: 100.0, 4: 15.0}
MESSAGES = 200
PEER_MESSAGES = {"bfloat16": 40, "float32": 8}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--labels", type=int, nargs="+", default=[20, 7, 4])
    options.add_argument("--shots", type=int, default=SHOTS, help="demonstrations; targets are for 8")
    arguments = options.parse_args()
    bench = opened(arguments)
    for labels in arguments.labels:
        messages = 6 if bench.small else MESSAGES
        asked = banking_choices(bench.data, card_labels(labels), messages, arguments.shots)
        target = TARGETS.get(labels) if arguments.shots == SHOTS else None
        for dtype in bench.dtypes:
            rows = bench.asked_of_peer(PEER_MESSAGES[dtype])
            work = f"{arguments.shots}-shot choice, {labels} labels, {dtype}, a message"
            found, sides = measured(bench, __file__, work, asked, dtype, rows, target)
            save(bench, "choice_scoring", [found], sides, peer="lm-eval, `hf`, batch 16", command=COMMAND)


if __name__ == "__main__" and not serve(ours=score_ours, peer=score_peer):
    main()
