"""A benchmark's JSON as the table and sentences of benchmarks/README.md; `docs/figures.py` puts them there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DOUBTFUL = 0.06
"""Others' share of the machine above which a line is marked."""
VERSIONS = ("torch", "transformers", "lm-eval", "trl", "peft")
HEAD = "| work | ours | peer | ratio | target | memory above the model, ours : peer | parity |"
TRAINING_HEAD = (
    "| work, against | ours, tokens/s (first epoch) | peer, tokens/s (first epoch) | ratio | target "
    "| memory above the model, ours : peer | share of the limit, ours : peer | parity |"
)
PICTURES = {"curves": ["![curves](results/curves.svg)"], "training": ["![losses](../docs/training_losses.svg)"]}

Row = dict[str, Any]


def table(path: Path) -> str:
    """The lines of a claim; curves and training have tables of their own."""
    if not path.exists():
        return "Not measured yet."
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["claim"] == "kills":
        return _kills(found)
    shapes = {
        "curves": _curves,
        "training": _training,
        "training_curves": _training_curves,
        "training_memory": _training_memory,
    }
    shape = shapes.get(found["claim"], _against_peer)
    blocks = ["\n".join([*shape(one["rows"]), "", _conditions(found["model"], one)]) for one in found["machines"]]
    return "\n\n".join([*blocks, *_said(found), *PICTURES.get(found["claim"], ())])


def _against_peer(rows: list[Row]) -> list[str]:
    return _under(HEAD, map(_line, rows))


def _training(rows: list[Row]) -> list[str]:
    return _under(TRAINING_HEAD, map(_trained, rows))


def _under(head: str, lines: Iterable[str]) -> list[str]:
    return [head, "|---" * (head.count("|") - 1) + "|", *lines]


def _said(found: Row) -> list[str]:
    """How the peer was called, and what makes a line doubtful."""
    commands = found.get("command", {})
    commands = commands if isinstance(commands, dict) else {found["peer"]: commands}
    said = [f"{name}: `{command}`" for name, command in commands.items()]
    rows = [row for machine in found["machines"] for row in machine["rows"]]
    if commands and any(max(row["foreign_cpu_share"].values()) > DOUBTFUL for row in rows):
        said.append(f"\\* others took more than {DOUBTFUL:.0%} of the machine meanwhile: doubtful.")
    return ["\n".join(f"- {sentence}" for sentence in said)] if said else []


def _line(row: Row) -> str:
    target, parity, doubtful = _target(row), _parity(row), _doubtful(row)
    named = f"{row['work']} at batch {row['batch']}" if "batch" in row else row["work"]
    times = " | ".join(f"{_three(row[side])} {row['unit']}" for side in ("ours", "peer"))
    ratio, equal = _three(row["ratio"]), row.get("ratio_on_peers_rows")
    if equal is not None:
        ratio += f" ({_three(equal)} on the peer's {row['compared']} rows)"
    return f"| {named}{doubtful} | {times} | {ratio} | {target} | {_memory(row)} | {parity} |"


def _trained(row: Row) -> str:
    """A line of training: tokens a second after the first epoch and in it, memory and the limit with their bounds."""
    speeds = [
        f"{_three(row['tokens_per_second'][side])} ({_three(row['cold_tokens_per_second'][side])})"
        for side in ("ours", "peer")
    ]
    memory, bound = _memory(row), row["memory_target"]
    if bound is not None:
        used = row["memory"]["ours_bytes"] / row["memory"]["peer_bytes"]
        memory += f", target {bound:g} {_met(used <= bound)}"
    shares, least = row["share_of_limit"], row["share_target"]
    share = f"{shares['ours']:.0%} : {shares['peer']:.0%}"
    if least is not None:
        share += f", target {least:.0%} {_met(shares['ours'] >= least)}"
    step = "" if row["step"] == "by hand" else f" (ours: {row['step']})"
    named = f"{row['kind']}, {row['dtype']}, {row['against']}{_doubtful(row)}{step}"
    cells = [named, *speeds, _three(row["ratio"]), _target(row), memory, share, _parity(row)]
    return f"| {' | '.join(cells)} |"


def _target(row: Row) -> str:
    return "" if row["target"] is None else f"{row['target']:g} {_met(row['ratio'] >= row['target'])}"


def _parity(row: Row) -> str:
    return str(row["parity"]) + ("" if row["parity_holds"] is None else f" {_met(row['parity_holds'])}")


def _doubtful(row: Row) -> str:
    return "\\*" if max(row["foreign_cpu_share"].values()) > DOUBTFUL else ""


def _met(holds: bool) -> str:
    return "(met)" if holds else "(missed)"


def _memory(row: Row) -> str:
    ours, peer = row["memory"]["ours_bytes"], row["memory"]["peer_bytes"]
    of = f" ({row['memory_of']})" if "memory_of" in row else ""
    return f"{ours / 1e9:.2f} : {peer / 1e9:.2f} GB = {ours / peer:.2f}{of}"


def _three(value: float) -> str:
    """Three figures."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _curves(rows: list[Row]) -> list[str]:
    prefill = sorted((row for row in rows if row["curve"] == "prefill"), key=_order)
    decode = sorted((row for row in rows if row["curve"] == "decode"), key=_order)
    lines = ["| prefill | prompts | tokens each | seconds | tokens/s | share of the limit | memory above the model |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in prefill:
        seconds = row["batch"] * row["length"] / row["tokens_per_second"]
        speed, share = f"{row['tokens_per_second']:,.0f}", f"{row['share_of_limit']:.0%}"
        lines.append(
            f"| {row['dtype']} | {row['batch']} | {row['length']:,} | {seconds:.2f} | {speed} | {share} | {_mb(row)} |"
        )
    lines += ["", "| decoding | rows | tokens/s | memory above the model |", "|---|---|---|---|"]
    for row in decode:
        lines.append(f"| {row['dtype']} | {row['batch']} | {row['tokens_per_second']:,.0f} | {_mb(row)} |")
    return lines


def _training_curves(rows: list[Row]) -> list[str]:
    head = "| dtype | rows | tokens each | tokens/s | share of the limit | memory above the model |"
    return _under(
        head,
        (
            f"| {row['dtype']} | {row['batch']} | {row['length']:,} | {row['tokens_per_second']:,.0f} "
            f"| {row['share_of_limit']:.0%} | {_mb(row)} |"
            for row in sorted(rows, key=lambda row: (row["dtype"], row["length"]))
        ),
    )


def _training_memory(rows: list[Row]) -> list[str]:
    head = "| training | forecast | peak | off | off, above the model | seconds: forecast, taken | within 15 % |"
    return _under(
        head,
        (
            f"| {row['work']} | {row['forecast_bytes'] / 1e9:.2f} GB | {row['peak_bytes'] / 1e9:.2f} GB "
            f"| {row['off']:+.1%} | {row['off_above_model']:+.1%} "
            f"| {row['forecast_seconds']:.1f}, {row['seconds']:.1f} | {_met(abs(row['off']) <= row['bound'])} |"
            for row in rows
        ),
    )


def _kills(found: Row) -> str:
    places = ", ".join(map(str, found["killed_at_steps"]))
    batch = f" of {found['batch']} messages" if "batch" in found else ""
    adapter = found["sha256"]["killed"]["adapter_model.safetensors"][:12]
    same = "the same bytes as" if found["same_bytes"] else "OTHER BYTES than"
    return (
        f"A training of {found['steps']} steps{batch} on tickets, killed after steps {places}, left {same} one that "
        f"was not: adapter {adapter}, its configuration and its record "
        f"({found['hardware']['cpu']}, {found['date'][:10]}, commit {found['commit']})."
    )


def _order(row: Row) -> tuple[str, int, int]:
    return row["dtype"], row["batch"], row["length"]


def _mb(row: Row) -> str:
    return f"{row['peak_bytes'] / 1e6:,.0f} MB"


def _conditions(model: str, found: Row) -> str:
    """Machine, versions and days of the figures."""
    hardware = found["hardware"]
    narrow = ", ".join(hardware["cpu_bf16_flags"]) or "no bf16"
    machine = f"{hardware['cores']} cores of {hardware['cpu']} ({narrow}), {hardware['memory_bytes'] / 1e9:.0f} GB"
    versions = {name: version for side in found["versions"].values() for name, version in side.items()}
    kept = ", ".join(f"{name} {versions[name]}" for name in VERSIONS if name in versions)
    days = sorted({row["date"][:10] for row in found["rows"]})
    return f"{model} on {machine}; {kept}; {' to '.join(dict.fromkeys((days[0], days[-1])))}."
