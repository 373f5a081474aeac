"""What every benchmark shares: an idle machine, one fresh process a side, peak memory, medians and the JSON file.

A benchmark is one script that starts each side as `PYTHON script --side NAME WORK RESULT`: ours with this interpreter,
the peer's with `--peer-python`. Only the standard library is imported here at the top, for both interpreters read it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from machines import installed, same_machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
FOREIGN_LIMIT = 0.06
"""Share of the machine's processor time that others may take before a figure is doubtful."""
PATIENCE_SECONDS = 3600

Work = Mapping[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What the command line said, and where the model lies."""

    peer_python: str
    data: Path
    model: str
    folder: str
    dtypes: tuple[str, ...]
    repeats: int
    small: bool
    results: Path
    peer_rows: int | None = None

    def asked_of_peer(self, usual: int) -> int:
        """Rows the peer is asked: two to check a script, else what `--peer-rows` says, else the usual number."""
        return 2 if self.small else self.peer_rows or usual


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options all benchmarks have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--peer-python", default=sys.executable, help="the interpreter that has the peer installed")
    made.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("TOOLKIT_BENCH_DATA", ROOT.parent / "shared" / "data")),
        help="folder of banking77/ and xquad_en/ ($TOOLKIT_BENCH_DATA; default: ../shared/data beside the checkout)",
    )
    made.add_argument("--model", default="smollm2-135m-instruct-q4", help="catalogue name of a causal language model")
    made.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], choices=["bfloat16", "float32"])
    made.add_argument("--repeats", type=int, default=3, help="runs whose median counts, where a run is short")
    made.add_argument(
        "--peer-rows", type=int, help="rows the peer is asked, where it takes long (default: each its own)"
    )
    made.add_argument("--small", action="store_true", help="tiny sizes, busy or not: checks the script, no figures")
    made.add_argument("--results", type=Path, default=None, help="folder of the JSON (default: benchmarks/results)")
    return made


def opened(arguments: argparse.Namespace) -> Bench:
    """The options with the model fetched."""
    from toolkit.models import Entry, fetch_weights, resolve

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a stopped benchmark ends its side too
    entry = resolve(arguments.model, "model")
    folder = fetch_weights(entry).folder if isinstance(entry, Entry) else entry
    trial = Path(tempfile.gettempdir()) / "toolkit-benchmarks-small" if arguments.small else RESULTS
    return Bench(
        peer_python=arguments.peer_python,
        data=arguments.data,
        model=arguments.model,
        folder=str(folder),
        dtypes=tuple(arguments.dtypes),
        repeats=1 if arguments.small else arguments.repeats,
        small=arguments.small,
        results=arguments.results or trial,
        peer_rows=arguments.peer_rows,
    )


# --- the machine -----------------------------------------------------------------------------------------------------


def _busy_seconds() -> float:
    """Processor seconds spent on this machine by anyone, or taken by its host, since it started."""
    if not Path("/proc/stat").exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Processor seconds of this process and of its finished children."""
    return sum(os.times()[:4])


class Watch:
    """Wall time and the share of the machine that others took, from its making to `stop`."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), _busy_seconds(), _own_seconds()

    def stop(self) -> tuple[float, float]:
        """Seconds, and others' share of all processor time in them."""
        wall, busy, own = (
            now - then
            for now, then in zip((time.perf_counter(), _busy_seconds(), _own_seconds()), self._began, strict=True)
        )
        return wall, max(0.0, busy - own) / (wall * CORES)


def wait_until_idle() -> None:
    """Returns once others took less than the limit for three seconds.

    Raises:
        SystemExit: the machine stayed busy for an hour.
    """
    deadline, told = time.monotonic() + PATIENCE_SECONDS, False
    while True:
        watch = Watch()
        time.sleep(3)
        share = watch.stop()[1]
        if share < FOREIGN_LIMIT:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"the machine is busy: others take {share:.0%} of it")
        if not told:
            say(f"  waiting for an idle machine (others take {share:.0%} of it)")
            told = True


# --- one fresh process a side ----------------------------------------------------------------------------------------


def run_side(bench: Bench, script: str, side: str, work: Work) -> Result:
    """Runs one side of a script in a process of its own and returns what it wrote, with others' share meanwhile."""
    python = bench.peer_python if side.startswith("peer") else sys.executable
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "work.json", Path(folder) / "result.json"
        given.write_text(json.dumps(dict(work)), encoding="utf-8")
        ran = run_command(bench, [python, str(Path(script).resolve()), "--side", side, str(given), str(made)])
        result: Result = json.loads(made.read_text(encoding="utf-8"))
    return {**result, "foreign_cpu_share": ran["foreign_cpu_share"]}


def run_command(bench: Bench, command: Sequence[str], folder: Path | None = None) -> Result:
    """A whole command: its seconds, the peak of its resident memory in bytes, and others' share of the machine.

    Raises:
        SystemExit: it failed.
    """
    if not bench.small:
        wait_until_idle()
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as home:
        watch = Watch()
        process = subprocess.Popen(command, cwd=folder, env=_environment(home), stdout=log, stderr=subprocess.STDOUT)
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, _status_bytes(process.pid, "VmHWM"))
                time.sleep(0.02)
        finally:
            process.kill()
        seconds, foreign = watch.stop()
        log.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}\n{log.read()[-4000:]}\nfailed with {process.returncode}")
    if foreign > FOREIGN_LIMIT:
        say(f"  doubtful: others took {foreign:.0%} of the machine")
    return {"seconds": seconds, "peak_bytes": peak, "foreign_cpu_share": round(foreign, 4)}


def _environment(home: str) -> dict[str, str]:
    """The same threads for both sides; nothing is looked up on a hub, and no cache of data sets is found warm."""
    kept = dict(os.environ)
    added = {"OMP_NUM_THREADS": str(CORES), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": home}
    return {**kept, **added, "TRANSFORMERS_VERBOSITY": "error"}


def serve(**sides: Callable[[Work], Result]) -> bool:
    """In a side's process: does its work and returns True. In the script's own: False."""
    if sys.argv[1:2] != ["--side"]:
        return False
    import torch

    torch.set_num_threads(CORES)
    name, given, made = sys.argv[2:5]
    result = sides[name](json.loads(Path(given).read_text(encoding="utf-8")))
    versions = {"python": platform.python_version(), **installed(), "threads": str(torch.get_num_threads())}
    Path(made).write_text(json.dumps({**result, "versions": versions}), encoding="utf-8")
    return True


# --- memory ----------------------------------------------------------------------------------------------------------


def _status_bytes(pid: int | str, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


class Peak:
    """Peak resident memory above a loaded model, from its making or the last `reset` on.

    Every parameter is touched first, for mapped weights are not in memory before they are read, and what loading freed
    is handed back: only then does the difference mean the same on both sides.
    """

    def __init__(self, module: Any) -> None:
        for parameter in module.parameters():
            parameter.detach().reshape(-1)[::64].sum()
        self.reset()
        self.base = _status_bytes("self", "VmRSS")

    def reset(self) -> None:
        """Hands freed memory back and starts the kernel's peak anew (`man 5 proc`, clear_refs)."""
        gc.collect()
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")

    def above(self) -> int:
        """Bytes."""
        return _status_bytes("self", "VmHWM") - self.base


# --- figures ---------------------------------------------------------------------------------------------------------


def row(work: str, ours: Result, peer: Result, each: int, target: float | None, **more: Any) -> Result:
    """One line of a table. A side's result has `seconds` (of its runs), `rows` they took and `peak_bytes`.

    `each` is 1 for seconds a row, 1000 for milliseconds; the ratio is of medians, a row each.
    """
    mine, theirs = (each * statistics.median(side["seconds"]) / side["rows"] for side in (ours, peer))
    memory = {"ours_bytes": ours["peak_bytes"], "peer_bytes": peer["peak_bytes"]}
    made = {"work": work, "unit": "ms" if each == 1000 else "s", "ours": mine, "peer": theirs, "ratio": theirs / mine}
    shares = {name: side["foreign_cpu_share"] for name, side in (("ours", ours), ("peer", peer))}
    runs = {name: {"seconds": side["seconds"], "rows": side["rows"]} for name, side in (("ours", ours), ("peer", peer))}
    found = {**made, "target": target, "memory": memory, "foreign_cpu_share": shares, "runs": runs, **more}
    told = f"{mine:.4g} {made['unit']} against {theirs:.4g}, {found['ratio']:.2f} times"
    say(f"  {work}: {told}; {more.get('parity', '')}")
    return {**found, **stamp()}


def save(bench: Bench, claim: str, rows: Sequence[Result], sides: Mapping[str, Result], **more: Any) -> None:
    """Writes `<claim>.json`, each machine's rows apart; rows of other work that an earlier run left there stay."""
    from toolkit.models import describe

    path = bench.results / f"{claim}.json"
    machines = json.loads(path.read_text(encoding="utf-8"))["machines"] if path.exists() else []
    fresh = {kept["work"] for kept in rows}
    hardware = {key: value for key, value in describe().items() if key not in ("python", "torch", "threads")}
    place = next((at for at, one in enumerate(machines) if same_machine(one["hardware"], hardware)), len(machines))
    old = machines[place]["rows"] if place < len(machines) else []
    versions = {name: side["versions"] for name, side in sides.items()}
    kept = [one for one in old if one["work"] not in fresh]
    machines[place : place + 1] = [{"hardware": hardware, "versions": versions, "rows": [*kept, *rows]}]
    whole = {"claim": claim, "model": bench.model, **more, "machines": machines}
    bench.results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"wrote {path}")


def stamp() -> dict[str, str]:
    """When a line was measured, and on which commit."""
    found = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "commit": found.stdout.strip()}


def say(text: str) -> None:
    print(text, flush=True)
