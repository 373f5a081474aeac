"""Choice scoring, both sides: `toolkit`'s `LocalModel.score` and lm-eval's `HFLM.loglikelihood`.

Timed on both: from texts to log-likelihoods, tokenisation included, the model loaded before. The token sequences
scored are compared and must be the same.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

from measure import Bench, Peak, Result, Work, row, run_side

CLOSE = 2e-4
"""How far a log-likelihood summed over a choice's tokens may lie from the peer's in fp32."""
BATCH = 16
COMMAND = (
    'HFLM(pretrained=<folder>, dtype="{dtype}", device="cpu", batch_size=16).loglikelihood(requests)   '
    "# lm_eval.models.huggingface"
)


def score_ours(work: Work) -> Result:
    """Runs ours; a fresh `LocalModel` each time, so that no run finds the prefix of the one before."""
    from toolkit import LocalModel
    from toolkit.models import load_pretrained, resolve, tune_cpu

    tune_cpu()
    loaded = load_pretrained(resolve(work["model"], "model"), work["dtype"])
    peak, seconds = Peak(loaded.module), []
    for _ in range(work["repeats"]):
        model = LocalModel.of(loaded)
        assert model.path.startswith("packed")  # asked when a run prepares, once a process
        started = time.perf_counter()
        prompts, continuations = rendered(loaded.tokenizer, work["asked"])
        scores = model.score(prompts, continuations)
        seconds.append(time.perf_counter() - started)
        del model
    sent = [prompt.token_ids for prompt in prompts]
    made = {"seconds": seconds, "rows": len(prompts), "peak_bytes": peak.above()}
    return {**made, "scores": scores, "contexts": sent, "continuations": continuations}


def rendered(tokenizer: Any, asked: Sequence[Work]) -> tuple[list[Any], list[list[tuple[int, ...]]]]:
    """Prompts by hand, without a chat template, and the ids of their choices without a stop token."""
    from toolkit.rendering import Prompt
    from toolkit.rendering.renderer import ids_digest
    from toolkit.tasks.messages import Message

    contexts = tokenizer([one["context"] for one in asked], add_special_tokens=False)["input_ids"]
    prompts = [
        Prompt((Message("user", one["context"]),), tuple(ids), {"question": len(ids)}, ids_digest(ids))
        for one, ids in zip(asked, contexts, strict=True)
    ]
    texts = sorted({choice for one in asked for choice in one["choices"]})
    known = dict(zip(texts, map(tuple, tokenizer(texts, add_special_tokens=False)["input_ids"]), strict=True))
    return prompts, [[known[choice] for choice in one["choices"]] for one in asked]


def score_peer(work: Work) -> Result:
    """Runs lm-eval, once."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=work["folder"], dtype=work["dtype"], device="cpu", batch_size=BATCH)
    pairs = [(one["context"], choice) for one in work["asked"] for choice in one["choices"]]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    peak = Peak(model.model)
    started = time.perf_counter()
    found = [score for score, _ in model.loglikelihood(requests, disable_tqdm=True)]
    seconds, above = time.perf_counter() - started, peak.above()
    sizes = [len(one["choices"]) for one in work["asked"]]
    ids = [model._encode_pair(*pair) for pair in pairs]
    return {
        "seconds": [seconds],
        "rows": len(sizes),
        "peak_bytes": above,
        "scores": _cut(found, sizes),
        "contexts": [group[0][0] for group in _cut(ids, sizes)],
        "continuations": [[continuation for _, continuation in group] for group in _cut(ids, sizes)],
    }


def _cut(flat: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """A flat list in pieces of the given sizes."""
    at = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    return [list(flat[start:end]) for start, end in itertools.pairwise(at)]


def compare(ours: Result, peer: Result) -> Result:
    """How far the two lie apart, on the peer's rows.

    Raises:
        SystemExit: they did not score the same tokens.
    """
    rows = len(peer["scores"])
    for key in ("contexts", "continuations"):
        if ours[key][:rows] != peer[key]:
            raise SystemExit(f"the two sides scored different {key}")
    pairs = list(zip(ours["scores"][:rows], peer["scores"], strict=True))
    gaps = [abs(a - b) for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True)]
    same = sum(mine.index(max(mine)) == theirs.index(max(theirs)) for mine, theirs in pairs)
    said = f"max difference {max(gaps):.1e}, mean {statistics.fmean(gaps):.1e} nats; same choice {same} of {rows}"
    return {"parity": said, "max_difference": max(gaps), "same_choice": same, "compared": rows}


def measured(
    bench: Bench, script: str, work: str, asked: Sequence[Work], dtype: str, peer_rows: int, target: float
) -> tuple[Result, dict[str, Result]]:
    """One line of the table: ours on all rows and again on the peer's, the peer on the first `peer_rows`."""
    common = {"model": bench.model, "folder": bench.folder, "dtype": dtype, "repeats": bench.repeats}
    few = list(asked[:peer_rows])
    ours = run_side(bench, script, "ours", {**common, "asked": list(asked)})
    on_peers_rows = run_side(bench, script, "ours", {**common, "asked": few})
    peer = run_side(bench, script, "peer", {**common, "asked": few})
    agreed = compare(ours, peer)
    holds = agreed["max_difference"] <= CLOSE and agreed["same_choice"] == agreed["compared"]
    equal = statistics.median(peer["seconds"]) / statistics.median(on_peers_rows["seconds"])
    lengths = [len(ids) for ids in ours["contexts"]]
    more = {
        **agreed,
        "parity_holds": holds if dtype == "float32" else None,
        "ratio_on_peers_rows": equal,
        "context_tokens": {"least": min(lengths), "median": statistics.median(lengths), "most": max(lengths)},
        "choice_tokens": sum(map(len, ours["continuations"][0])),
    }
    return row(work, ours, peer, 1000, target, **more), {"ours": ours, "peer": peer}
