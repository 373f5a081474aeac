"""A run folder as a finished run leaves it, made of seeded scores and judged by the real statistics."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from toolkit.comparison.contrast import contrasts, estimate, slice_scores
from toolkit.comparison.measure import Candidate, Plan
from toolkit.evaluation import METRICS, ScoreRow, usage_rows, write_scores, write_usage
from toolkit.json_lines import dumps
from toolkit.runs.records import pretty, to_line
from toolkit.tasks.output import Output, RetrievedPassage, Usage

STRATEGIES = {
    "zero_shot": ("no adaptation", 0.18, 0),
    "few_shot": ("prompt", 0.27, 0),
    "rag": ("retrieve", 0.46, 400),
    "lora": ("tune", 0.29, 0),
    "lora_rag": ("retrieve + tune", 0.70, 400),
    "oracle": ("oracle", 0.78, 400),
}
PLANS = (
    ("few_shot", "zero_shot"),
    ("rag", "zero_shot"),
    ("lora", "zero_shot"),
    ("lora_rag", "zero_shot"),
    ("lora_rag", "rag"),
    ("lora_rag", "lora"),
)
SHEET = {
    "model": "smollm2-135m-instruct-q4 (0f2b1c9a77de)",
    "dtype": "bfloat16",
    "decoding": "at most 24 new tokens, greedy",
    "answer_by": "generation",
    "template": "answer (51aa0c3b9e01)",
}


class FakeRun:
    """What the test wants in the folder; `write` puts it there."""

    def __init__(self, names=tuple(STRATEGIES), plans=PLANS, baseline="zero_shot", n=120, groups=44):
        self.names, self.baseline, self.n, self.groups = names, baseline, n, groups
        self.plans = [Plan(a, b, "token_f1") for a, b in plans]
        self.smoke, self.margin, self.trials, self.labels, self.text = False, None, {}, {}, "the duty officer"
        self.timed, self.drop_ledger = 32, ()

    def write(self, root: Path) -> dict:
        rows, outputs = self._answers()
        metrics = {
            name: METRICS[name] for name in ("token_f1", "exact_match", "parsed", "recall_at_k", "answer_tokens")
        }
        candidates = {
            name: Candidate(name, self.label(name), name == "oracle", self.seeds(name), self.trials.get(name, 0))
            for name in self.names
        }
        plans = [replace(plan, margin=self.margin) for plan in self.plans]
        results = contrasts(rows, candidates, plans, metrics, 0.05, self.smoke, None)
        usage = [row for name in self.names for row in usage_rows(name, self.seeds(name)[0], outputs[name])]
        comparison = {
            "recipe": "handbook",
            "recipe_digest": "8d1f0c2e55aa90b1",
            "description": "Questions of harbour staff, answered from the handbook.",
            "task": "handbook",
            "metric": "token_f1",
            "n": self.n,
            "seeds": [0],
            "smoke": self.smoke,
            "claim": "artefact: these fitted systems, seed 0, on examples like the test set's.",
            "test_scorings": 2,
            "baseline": self.baseline,
            "strategies": {
                name: self._facts(rows, outputs, candidate, metrics) for name, candidate in candidates.items()
            },
            "contrasts": [asdict(result) for result in results],
            "notes": ["The test set has been scored by 2 different recipes here."],
        }
        root.mkdir(parents=True, exist_ok=True)
        (root / "comparison.json").write_bytes(pretty(comparison))
        (root / "ledger.json").write_bytes(pretty(self._ledger()))
        (root / "manifest.json").write_bytes(pretty(self._manifest()))
        event = {"time": 1.5, "event": "model", "model": "smollm2", "dtype": "bfloat16", "why": "auto: amx_bf16"}
        (root / "events.jsonl").write_text(dumps(event) + "\n")
        write_scores(rows, root / "scores.parquet")
        write_usage(usage, root / "usage.parquet")
        for name in self.names:
            seed = self.seeds(name)[0]
            path = root / "outputs" / name / ("seed-none.jsonl" if seed is None else f"seed-{seed}.jsonl")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "".join(dumps({"chunk": "k", "output": to_line(output)}) + "\n" for output in outputs[name]),
                encoding="utf-8",
            )
        return json.loads((root / "comparison.json").read_text())

    def label(self, name):
        return self.labels.get(name, STRATEGIES[name][0])

    def seeds(self, name):
        return (0,) if "lora" in name or name == "few_shot" else (None,)

    def _answers(self):
        rows, outputs = [], {}
        for name in self.names:
            dice = random.Random(name)
            _, skill, passages = STRATEGIES[name]
            outputs[name] = []
            for number in range(self.n):
                example, group = f"q{number:03}", f"doc{number % self.groups:02}"
                hard = random.Random(number).random()
                value = 1.0 if dice.random() * 0.6 + hard * 0.4 < skill else dice.choice([0.0, 0.0, 0.4])
                status = "unparsable" if value == 0 and dice.random() < 0.05 else "answered"
                text = f"{self.text} {number}" if value else f"I am not sure about {number}.\nAsk the office."
                found = dice.random() < (1.0 if name == "oracle" else 0.8)
                retrieved = (RetrievedPassage(f"{group}.md", 0, 400, 0.7, 1),) if passages else ()
                tokens = {"question": 30 + number % 9, "passages": passages, "other": 21}
                if name == "few_shot":
                    tokens["demonstrations"] = 180
                usage = Usage(tokens, 8 + number % 5, 1)
                ending = "length" if number % 17 == 0 else "stop"
                outputs[name].append(
                    Output(example, status, text, text, termination=ending, retrieved=retrieved, usage=usage)
                )
                values = {"token_f1": value, "exact_match": float(value == 1), "parsed": float(status == "answered")}
                values["answer_tokens"] = float(usage.completion_tokens)
                if passages and number % 6:
                    values["recall_at_k"] = float(found)
                for metric, scored in values.items():
                    slices = ("tables",) if number % 4 == 0 else ("prose", "long")
                    rows.append(
                        ScoreRow(
                            name,
                            "smollm2",
                            "generation",
                            self.seeds(name)[0],
                            example,
                            group,
                            slices,
                            metric,
                            "1",
                            scored,
                            (scored, 1.0),
                        )
                    )
        return rows, outputs

    def _facts(self, rows, outputs, candidate, metrics):
        present = {row.metric for row in rows if row.strategy == candidate.name}
        merge = {"examples": 40, "changed": 1, "share": 0.025} if "lora" in candidate.name else None
        return {
            **asdict(estimate(rows, candidate, metrics["token_f1"])),
            "label": candidate.label,
            "control": candidate.control,
            "seeds": list(candidate.seeds),
            "trials": candidate.trials,
            "statuses": dict(Counter(output.status for output in outputs[candidate.name])),
            "terminations": dict(Counter(output.termination for output in outputs[candidate.name])),
            "metrics": {name: asdict(estimate(rows, candidate, metrics[name])) for name in sorted(present)},
            "slices": {
                name: {"score": score, "n": count}
                for name, (score, count) in slice_scores(rows, candidate, metrics["token_f1"]).items()
            },
            "merge": merge,
        }

    def _ledger(self):
        def entry(name):
            tuned, retrieves = "lora" in name, STRATEGIES[name][2] > 0
            prompt = {"question": 34.0, "demonstrations": 180.0 if name == "few_shot" else 0.0, "other": 21.0}
            prompt["passages"] = float(STRATEGIES[name][2])
            p95 = 0.94 if self.timed >= 20 else None
            latency = {"n": self.timed, "first": 0.9, "p50": 0.41, "p95": p95} if name != "oracle" else None
            return {
                "fixed": {
                    "fit_seconds": 412.3 if tuned else 3.1 if retrieves else 0.0,
                    "adapter_bytes": 4_900_000 if tuned else None,
                    "index_bytes": 210_000 if retrieves else None,
                    "chunks": 137 if retrieves else None,
                    "trained_parameters": 1_221_000 if tuned else None,
                    "training_tokens": 88_000 if tuned else None,
                    "trials": self.trials.get(name, 0),
                },
                "per_query": {
                    "seconds": 0.31 if retrieves else 0.09 if tuned else 0.12,
                    "prompt_tokens": prompt,
                    "completion_tokens": 10.0,
                    "calls": 1.0,
                    "latency_seconds": latency,
                },
            }

        return {
            "stages_seconds": {"answer": 122.5, "fit": 830.25, "index": 2.9, "load": 4.4, "latency": 61.0},
            "peak_memory_bytes": 2_140_000_000,
            "strategies": {name: entry(name) for name in self.names if name not in self.drop_ledger},
        }

    def _manifest(self):
        kinds = {"retrieve": {"top_k": 3, "size_tokens": 160, "overlap_tokens": 32}, "tune": {"rank": 16}}
        return {
            "toolkit": "0.1.0",
            "recipe": {"name": "handbook", "digest": "8d1f0c2e55aa90b1", "path": "handbook.yaml"},
            "task": {
                "name": "handbook",
                "kind": "text",
                "digest": "1" * 64,
                "test_digest": "2" * 64,
                "sizes": {"train": 240, "validation": 60, "test": self.n},
                "scored": self.n,
                "shared_groups": "staff will ask about these same documents",
                "instruction": "Answer in as few words as possible.",
            },
            "models": {"smollm2": {"digest": "3" * 64}},
            "embedder": "all-minilm-l6-v2",
            "environment": {"torch": "2.13.0", "numpy": "2.3", "dtype": "bfloat16", "threads": 2, "batch_tokens": 4096},
            "hardware": {"cpu": "AMD EPYC", "cores": 2, "memory_bytes": 8_000_000_000, "gpus": [], "torch": "2.13.0"},
            "strategies": {
                name: {
                    "label": self.label(name),
                    "control": name == "oracle",
                    "seeds": list(self.seeds(name)),
                    "adapters": [
                        {kind: kinds.get(kind, {})}
                        for kind in STRATEGIES[name][0].split(" + ")
                        if kind != "no adaptation"
                    ],
                    "factors": SHEET,
                }
                for name in self.names
            },
        }


@pytest.fixture(scope="module")
def fake_run():
    return FakeRun
