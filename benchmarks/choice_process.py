"""Claim: a whole process that scores choices takes a fifteenth of lm-eval's command line.

usage: python benchmarks/choice_process.py --peer-python PYTHON [--dtypes bfloat16]

From the interpreter's start to the written scores: imports, load, tokenisation, scoring. banking77, 8-shot, 7 labels,
100 messages. Memory is the whole process's peak.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from choices import CLOSE, compare
from measure import Bench, Result, opened, parser, row, run_command, run_side, save, serve
from workloads import banking_splits, card_labels, read_rows

LABELS, MESSAGES, TARGET = 7, 100, 15.0
TASK = """\
task: choice_peer
dataset_path: json
dataset_kwargs:
  data_files: {train: FOLDER/train.jsonl, test: FOLDER/test.jsonl}
training_split: train
test_split: test
fewshot_split: train
output_type: multiple_choice
description: "Predict the intent of the utterance.\\n\\n"
doc_to_text: "Utterance: {{text}}\\nIntent:"
doc_to_choice: "{{choices}}"
doc_to_target: label
num_fewshot: 8
fewshot_config: {sampler: first_n}
metric_list: [{metric: acc}]
"""
COMMAND = (
    "python -m lm_eval --model hf --model_args pretrained={folder},dtype={dtype} --tasks choice_peer "
    "--include_path {task} --device cpu --batch_size 16 --log_samples --output_path {out}"
)


def prepare(bench: Bench, folder: Path) -> None:
    """The two data files and lm-eval's task."""
    shown, asked = banking_splits(bench.data, card_labels(LABELS), 3 if bench.small else bench.peer_rows or MESSAGES)
    for name, rows in (("train", shown), ("test", asked)):
        text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "choice_peer.yaml").write_text(TASK.replace("FOLDER", str(folder)), encoding="utf-8")


def process(bench: Bench, command: list[str], folder: Path, repeats: int) -> Result:
    """A command's runs as a side's result."""
    runs = [run_command(bench, command, folder) for _ in range(repeats)]
    return {
        "seconds": [one["seconds"] for one in runs],
        "rows": len(read_rows(folder / "test.jsonl")),
        "peak_bytes": max(one["peak_bytes"] for one in runs),
        "foreign_cpu_share": max(one["foreign_cpu_share"] for one in runs),
    }


def ours_of(bench: Bench, dtype: str, folder: Path) -> Result:
    script = str(Path(__file__).with_name("choice_process_ours.py").resolve())
    command = [sys.executable, script, bench.model, dtype, str(folder)]
    found = process(bench, command, folder, bench.repeats)
    rows = read_rows(folder / "ours.jsonl")
    sent = {"contexts": [one["context"] for one in rows], "continuations": [one["choices"] for one in rows]}
    return {**found, "scores": [one["scores"] for one in rows], **sent}


def peer_of(bench: Bench, dtype: str, folder: Path) -> Result:
    """Runs lm-eval, once; its samples hold the very texts it scored."""
    out = folder / f"out-{dtype}"
    said = COMMAND.format(folder=bench.folder, dtype=dtype, task=folder, out=out)
    found = process(bench, [bench.peer_python, *said.split()[1:]], folder, 1)
    (written,) = out.rglob("samples_choice_peer_*.jsonl")
    samples = sorted(read_rows(written), key=lambda one: one["doc_id"])
    scores = [[float(answer[0][0]) for answer in one["resps"]] for one in samples]
    sent = [list(one["arguments"].values()) for one in samples]
    contexts = [requests[0]["arg_0"] for requests in sent]
    continuations = [[request["arg_1"] for request in requests] for requests in sent]
    return {**found, "scores": scores, "contexts": contexts, "continuations": continuations}


def versions(_: object) -> Result:
    """A side that only says what is installed."""
    return {}


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(dtypes=["bfloat16"])
    bench = opened(options.parse_args())
    sides = {name: run_side(bench, __file__, name, {}) for name in ("ours", "peer")}
    for dtype in bench.dtypes:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            prepare(bench, folder)
            ours, peer = ours_of(bench, dtype, folder), peer_of(bench, dtype, folder)
        agreed = compare(ours, peer)
        work = f"whole process, 8-shot choice, {LABELS} labels, {ours['rows']} messages, {dtype}"
        whole = [{**side, "rows": 1} for side in (ours, peer)]
        holds = agreed["max_difference"] <= CLOSE if dtype == "float32" else None
        found = row(work, *whole, 1, TARGET, **agreed, parity_holds=holds, memory_of="whole process")
        save(bench, "choice_process", [found], sides, peer="lm-eval's command line, batch 16", command=COMMAND)


if __name__ == "__main__" and not serve(ours=versions, peer=versions):
    main()
