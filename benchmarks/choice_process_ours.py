"""Ours of `choice_process.py`, a whole program: choices scored from two JSON Lines files to one.

usage: python benchmarks/choice_process_ours.py MODEL DTYPE FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from choices import rendered
from workloads import few_shot_choices, read_rows

from toolkit import LocalModel
from toolkit.models import load_pretrained, resolve, tune_cpu


def main(model_name: str, dtype: str, folder: Path) -> None:
    tune_cpu()
    loaded = load_pretrained(resolve(model_name, "model"), dtype)
    asked = few_shot_choices(read_rows(folder / "train.jsonl"), read_rows(folder / "test.jsonl"))
    prompts, continuations = rendered(loaded.tokenizer, asked)
    scores = LocalModel.of(loaded).score(prompts, continuations)
    with (folder / "ours.jsonl").open("w", encoding="utf-8") as file:
        for one, found in zip(asked, scores, strict=True):
            file.write(json.dumps({**one, "scores": found}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
