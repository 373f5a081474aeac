"""The model card of weights that are handed over: all that a run's folder knows of them, and none of its data.

The YAML in front is what the model hub reads; the keys are its own.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML

from toolkit.report import figures
from toolkit.report.blocks import Bullets, Facts, Paragraph
from toolkit.report.card_code import loading_code
from toolkit.report.facts import provenance
from toolkit.report.limits import limits
from toolkit.report.markdown import as_text, escaped, prose
from toolkit.report.read import RunFiles
from toolkit.strategies.tuned import Tuned

TAG = "adaptation-toolkit"

PLACE = re.compile(r"(?<![\w/:.])/(?:[^\s/()]+/)+([^\s/()]+)")
"""A path of the machine, which runs of older releases name models and embedders by; its last name says enough."""


def card(run: RunFiles, tuned: Tuned, dtype: str | None = None) -> str:
    """The card as Markdown.

    Args:
        dtype: of merged weights; None for an adapter.
    """
    makers = (_what, _loading, _prompt, _data, _training, _results, _merging, _limits, _provenance)
    lines = [part for make in makers for part in make(run, tuned, dtype)]
    return f"---\n{_front(run, tuned, dtype)}---\n\n" + "\n\n".join(lines) + "\n"


def merging(tuned: Tuned, dtype: str) -> str:
    """What merging to a dtype changed of the answers, as far as the run measured it."""
    merge, computed = tuned.report("merge"), tuned.base.dtype
    if merge is None:
        said = f"What merging changes was not measured for {tuned}"
        return f"{said}: a run measures it for its first seed." if tuned.seed is not None else f"{said}."
    changed = f"Merging changed {merge['changed']} of {merge['examples']} validation answers, measured in {computed}"
    if dtype == computed:
        return f"{changed}."
    if dtype == "bfloat16":
        return f"{changed}; in bfloat16, which rounds much of a small update away, it was not measured."
    return f"{changed}, where the sum is rounded; these weights are {dtype} and keep the whole update."


def _front(run: RunFiles, tuned: Tuned, dtype: str | None) -> str:
    metric, facts = run.comparison["metric"], run.strategies[tuned.strategy.name]
    task = str(run.comparison["task"])
    content: dict[str, Any] = {
        "base_model": tuned.base.published,
        "library_name": "peft" if dtype is None else "transformers",
        "license": tuned.base.licence.lower() if tuned.base.licence else None,
        "pipeline_tag": "text-generation",
        "tags": [*["lora"] * (not tuned.whole), TAG],
    }
    if not run.comparison["smoke"]:
        measured = {"type": metric, "name": figures.plain(metric), "value": round(float(facts["score"]), 4)}
        result = {
            "task": {"type": "text-generation"},
            "dataset": {"name": task, "type": task, "split": "test"},
            "metrics": [measured],
        }
        content["model-index"] = [{"name": f"{run.comparison['recipe']}-{tuned.strategy.name}", "results": [result]}]
    written = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump({key: value for key, value in content.items() if value is not None}, written)
    return written.getvalue()


def _what(run: RunFiles, tuned: Tuned, dtype: str | None) -> Iterator[str]:
    base, strategy = tuned.base, tuned.strategy
    yield f"# {escaped(str(run.comparison['recipe']))}: {escaped(str(tuned))}"
    if run.comparison["smoke"]:
        yield "> **From a smoke run on a sample of the test set: things work, and no figure is a finding.**"
    form = "A LoRA adapter for" if dtype is None else f"A LoRA adapter merged ({dtype}) into"
    form = f"All weights, trained ({dtype}), of" if tuned.whole else form
    hub = f" ({base.published} at {base.revision})" if base.revision else ""
    yield f"{form} **{escaped(base.name)}**{escaped(hub)}. Claim: {escaped(str(run.comparison['claim']))}"
    if not base.revision:
        whose = f"weights of sha256 {base.digest[:12]}… from {base.source if base.source != 'folder' else 'a folder'}"
        if base.published:
            whose += f"; they were made from {base.published}, on which it was not measured"
        yield f"The base: {escaped(whose)}. {escaped(base.note)}".rstrip()
    others = [item.kind for item in strategy.adapters if not item.settings.tunes]
    if others:
        yield (
            f"It is one part of the strategy {escaped(strategy.name)} ({escaped(strategy.label())}), whose figures are "
            f"below. Without {figures.listed(others)} it answers otherwise: for the whole strategy, "
            f"`toolkit predict {run.name} {strategy.name}`."
        )


def _loading(run: RunFiles, tuned: Tuned, dtype: str | None) -> Iterator[str]:
    yield "## How to load it"
    yield f"```python\n{loading_code(tuned.base, dtype is not None, tuned.report('prompt'))}\n```"


def _prompt(run: RunFiles, tuned: Tuned, dtype: str | None) -> Iterator[str]:
    asked, task = tuned.report("prompt"), run.manifest["task"]
    yield "## The prompt it expects"
    known = "Tuned weights know the prompts that they learnt from, to the letter: template, instruction, chat format"
    if tuned.strategy.trained_elsewhere:
        known = "What prompts it was trained on is unknown; it was measured with these"
    yield f"{known}. `toolkit predict {run.name} {tuned.strategy.name} TEXT` writes them so, and reads the answer."
    yield as_text(Facts((("instruction", str(task["instruction"])), ("answered by", _answered_by(run, tuned)))))
    if asked is None:
        template = run.manifest["strategies"][tuned.strategy.name]["factors"]["template"]
        yield f"The template is {escaped(template)}; `toolkit inspect` shows what was sent."
        return
    yield f"The template `{asked['template']['name']}` (sha256 {asked['template']['digest'][:12]}…):"
    yield f"````yaml\n{_template(asked['template'])}\n````"


def _answered_by(run: RunFiles, tuned: Tuned) -> str:
    factors = run.manifest["strategies"][tuned.strategy.name]["factors"]
    return f"{factors['answer_by']} ({factors['decoding']})"


def _template(texts: Mapping[str, str]) -> str:
    blocks = []
    for key in ("system", "passages", "user"):
        lines = texts[key].rstrip("\n").splitlines() or [""]
        blocks.append("\n".join([f"{key}: |-", *(f"  {line}".rstrip() for line in lines)]))
    return "\n".join(blocks)


def _data(run: RunFiles, tuned: Tuned, dtype: str | None) -> Iterator[str]:
    yield "## What it was trained on"
    if tuned.strategy.trained_elsewhere:
        yield (
            "It was trained elsewhere: what it learnt from is unknown to the run that measured it, so whether it saw "
            "the test rows is unknown."
        )
        return
    task = run.manifest["task"]
    sizes = ", ".join(f"{figures.count(size)} {split}" for split, size in task["sizes"].items())
    facts = [
        ("task", f"{task['name']} ({task['kind']})"),
        ("rows", f"{sizes}; it learnt from {_source(run, tuned)} alone"),
    ]
    digest = task.get("training_digest")
    facts.append(("sha256 of train and validation", digest) if digest else ("sha256 of all splits", task["digest"]))
    if task.get("shared_groups"):
        facts.append(("groups shared between splits", str(task["shared_groups"])))
    yield as_text(Facts(tuple(facts)))
    yield "The data itself is not here."


def _source(run: RunFiles, tuned: Tuned) -> str:
    """What the weights learnt from."""
    adapters = run.manifest["strategies"][tuned.strategy.name]["adapters"]
    settings: Mapping[str, Any] = next((adapter["tune"] for adapter in adapters if "tune" in adapter), {})
    if settings.get("learn") == "corpus":
        return "the corpus"
    return f"the conversations of {escaped(settings['chats'])}" if settings.get("learn") == "chats" else "train"


def _training(run: RunFiles, tuned: Tuned, dtype: str | None) -> Iterator[str]:
    said = tuned.report("training")
    if said is None:
        return
    yield "## How it was trained"
    losses, unit = said["losses"], "pair" if tuned.learnt == "preferences" else "supervised token"
    facts = [
        ("steps", figures.count(said["steps"])),
        ("supervised tokens", figures.count(said["supervised_tokens"])),
        ("tokens read", figures.count(said["seen_tokens"])),
        ("learning rate at its peak", f"{said['learning_rate']:g}"),
        *([] if tuned.whole else [("rank", str(said["rank"]))]),
        ("trained parameters", f"{said['trainable_parameters']:,} of {said['total_parameters']:,}"),
        ("loss of the first and the last step", f"{losses[0]:.3f} and {losses[-1]:.3f} nats a {unit}"),
        ("computed by", str(said["step"])),
    ]
    yield as_text(Facts(tuple(facts)))
    settings = ", ".join(f"{name} {value}" for name, value in said["settings"].items() if value not in ({}, None))
    yield f"Settings: {escaped(settings)}."
    yield from (f"Notice: {escaped(str(notice))}." for notice in said.get("notices", ()))


def _results(run: RunFiles, tuned: Tuned, dtype: str | None) -> Iterator[str]:
    name = tuned.strategy.name
    facts = run.strategies[name]
    yield "## How well it does"
    seeds = f", the mean of seeds {', '.join(map(str, facts['seeds']))}" if len(facts["seeds"]) > 1 else ""
    yield f"On {figures.counted(int(facts['n']), 'test example')} of {escaped(str(run.comparison['task']))}{seeds}:"
    rows = ["| metric | score | 95 % interval |", "|---|---:|---|"]
    for metric, found in facts["metrics"].items():
        spread = figures.interval((found["interval"][0], found["interval"][1]), metric)
        rows.append(f"| {escaped(figures.unit(metric))} | {figures.amount(found['score'], metric)} | {spread} |")
    yield "\n".join(rows)
    against = [one for one in run.comparison["contrasts"] if name in (one["a"], one["b"])]
    if against:
        yield as_text(Bullets(tuple(f"{one['sentence']} {_verdict(one)}".strip() for one in against)))


def _verdict(contrast: Mapping[str, Any]) -> str:
    if contrast["refused"] is not None or contrast["verdict"] in (None, "SMOKE"):
        return ""
    return f"(Holm p {figures.p_value(contrast['p_holm'])}: {contrast['verdict']})"


def _merging(run: RunFiles, tuned: Tuned, dtype: str | None) -> Iterator[str]:
    if dtype is not None and not tuned.whole:
        yield "## What merging changed"
        yield prose(merging(tuned, dtype))


def _limits(run: RunFiles, tuned: Tuned, dtype: str | None) -> Iterator[str]:
    yield "## What was not tested"
    yield from map(as_text, limits(run).blocks)


def _provenance(run: RunFiles, tuned: Tuned, dtype: str | None) -> Iterator[str]:
    yield "## Made with"
    for block in provenance(run).blocks:
        if not isinstance(block, Paragraph):
            yield PLACE.sub(r"\1", as_text(block))
