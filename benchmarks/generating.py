"""Greedy decoding, the sides: `toolkit`'s `LocalModel.generate`, transformers' `generate` and `generate_batch`.

Timed on all: from token ids to token ids (ours also makes the texts), the model loaded and one short answer decoded
before.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from measure import Bench, Peak, Result, Work, row, run_side

BATCHES = (8, 16, 24)
NEW_TOKENS = 32
SMALL_BLOCKS = {"num_blocks": 64, "max_batch_tokens": 1024}
COMMAND = {
    "generate": "model.generate(input_ids, attention_mask=mask, do_sample=False, max_new_tokens=32)   "
    "# sdpa, padded on the left, rows sorted by length, batches of 8, 16, 24 as often as ours: the best median counts",
    "generate, tuned": 'the same after torch.backends.mkldnn.matmul.fp32_precision = "bf16" and '
    "mallopt(M_MMAP_THRESHOLD, 1 << 30), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)",
    "generate_batch": "model.generate_batch(inputs, generation_config)   # continuous batching, defaults",
    "generate_batch, small": "the same with ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=1024)",
}


def chat_ids(folder: str, chats: Iterator[Any] | Sequence[Any], count: int, least: int, most: int) -> list[list[int]]:
    """Ids of the first conversations, through the model's own chat template, whose length lies within the bounds."""
    from transformers import AutoTokenizer

    tokenizer, kept = AutoTokenizer.from_pretrained(folder), []
    for chat in chats:
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        if least <= len(ids) <= most:
            kept.append(ids)
        if len(kept) == count:
            break
    return kept


def stops(folder: str) -> list[int]:
    """What ends an answer on every side: the turn's end and EOS."""
    from transformers import AutoTokenizer

    from toolkit import Renderer

    return sorted(Renderer(AutoTokenizer.from_pretrained(folder)).stop_ids)


def decode_ours(work: Work) -> Result:
    """Runs ours, all rows at once; a fresh `LocalModel` each time, so that no run finds an earlier one's prefix."""
    from toolkit import LocalModel
    from toolkit.inference.model import Sampling
    from toolkit.models import load_pretrained, resolve, tune_cpu

    tune_cpu()
    loaded = load_pretrained(resolve(work["model"], "model"), work["dtype"])
    prompts, sampling = by_hand(work["prompts"]), Sampling(max_new_tokens=NEW_TOKENS)
    LocalModel.of(loaded).generate(prompts[:1], Sampling(max_new_tokens=4))
    peak, seconds, above = Peak(loaded.module), [], []
    for _ in range(work["repeats"]):
        peak.reset()
        model = LocalModel.of(loaded)
        assert model.path.startswith("packed")  # asked when a run prepares, once a process
        started = time.perf_counter()
        answers = model.generate(prompts, sampling)
        seconds.append(time.perf_counter() - started)
        above.append(peak.above())
        del model
    said = [list(answer.token_ids) for answer in answers]
    return {"seconds": seconds, "rows": len(prompts), "peak_bytes": max(above), "said": said}


def by_hand(rows: Sequence[Sequence[int]]) -> list[Any]:
    """Prompts of token ids alone."""
    from toolkit.rendering import Prompt
    from toolkit.rendering.renderer import ids_digest

    return [Prompt((), tuple(ids), {"question": len(ids)}, ids_digest(ids)) for ids in rows]


def decode_peer(work: Work) -> Result:
    """Runs `model.generate` at several batch sizes, each as often as ours and in turn; the best median counts."""
    if work["tuned"]:
        tune_by_hand()
    model = _module(work)
    _generate(model, work["prompts"][:1], 1, work["stop"], 4)
    peak = Peak(model)
    tried: dict[int, Result] = {batch: {"seconds": [], "peak_bytes": 0} for batch in work["batches"]}
    for _ in range(work["repeats"]):
        for batch, found in tried.items():
            peak.reset()
            seconds, found["said"] = _generate(model, work["prompts"], batch, work["stop"], NEW_TOKENS)
            found["seconds"].append(seconds)
            found["peak_bytes"] = max(found["peak_bytes"], peak.above())
    best = min(tried, key=lambda batch: statistics.median(tried[batch]["seconds"]))
    by_batch = {str(batch): found["seconds"] for batch, found in tried.items()}
    return {**tried[best], "rows": len(work["prompts"]), "batch": best, "seconds_by_batch": by_batch}


def tune_by_hand() -> None:
    """The settings `toolkit.models.tune_cpu` makes, by hand."""
    import torch

    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 30)
    libc.mallopt(-1, 2**31 - 1)


def _module(work: Work) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, work["dtype"])
    return AutoModelForCausalLM.from_pretrained(work["folder"], dtype=dtype, attn_implementation="sdpa").eval()


def _generate(
    model: Any, prompts: Sequence[list[int]], size: int, stop: list[int], new_tokens: int
) -> tuple[float, list[list[int]]]:
    """Seconds, and what was said on each prompt, without the stop token."""
    import torch

    started = time.perf_counter()
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    said: list[list[int]] = [[]] * len(prompts)
    for first in range(0, len(order), size):
        batch = order[first : first + size]
        width = max(len(prompts[number]) for number in batch)
        ids = torch.tensor([[stop[0]] * (width - len(prompts[number])) + prompts[number] for number in batch])
        mask = torch.tensor([[0] * (width - len(prompts[n])) + [1] * len(prompts[n]) for n in batch])
        made = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=new_tokens,
            eos_token_id=stop,
            pad_token_id=stop[0],
        )
        for number, answer in zip(batch, made[:, width:].tolist(), strict=True):
            said[number] = _until(answer, stop)
    return time.perf_counter() - started, said


def _until(answer: list[int], stop: Sequence[int]) -> list[int]:
    """An answer up to its stop token."""
    return next((answer[:place] for place, token in enumerate(answer) if token in stop), answer)


def continuous_peer(work: Work) -> Result:
    """Runs `model.generate_batch`, once."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model, prompts, stop = _module(work), work["prompts"], work["stop"]
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=stop, pad_token_id=stop[0], bos_token_id=1
    )
    config = ContinuousBatchingConfig(**work["blocks"]) if work["blocks"] else None
    model.generate_batch(prompts[:1], generation_config=settings, continuous_batching_config=config)
    peak, started = Peak(model), time.perf_counter()
    made = model.generate_batch(prompts, generation_config=settings, continuous_batching_config=config)
    seconds, above = time.perf_counter() - started, peak.above()
    answers = {tuple(found.prompt_ids): _until(list(found.generated_tokens), stop) for found in made.values()}
    said = [answers.get(tuple(prompt), []) for prompt in prompts]
    return {"seconds": [seconds], "rows": len(prompts), "peak_bytes": above, "said": said}


def line(work: str, dtype: str, ours: Result, peer: Result, target: float | None) -> Result:
    """A line of the table; identical rows are promised in fp32 only."""
    rows = len(peer["said"])
    same = sum(mine == theirs for mine, theirs in zip(ours["said"], peer["said"], strict=False))
    holds = same == rows if dtype == "float32" else None
    tokens = [statistics.fmean(map(len, side["said"])) for side in (ours, peer)]
    more = {key: peer[key] for key in ("batch", "seconds_by_batch") if key in peer}
    found = {"identical_rows": same, "compared": rows, "new_tokens": dict(zip(("ours", "peer"), tokens, strict=True))}
    parity = f"identical tokens in {same} of {rows} rows"
    return row(work, ours, peer, 1000, target, parity=parity, parity_holds=holds, **found, **more)


def against_generate(
    bench: Bench, script: str, work: str, prompts: list[list[int]], dtype: str, targets: dict[str, float | None]
) -> tuple[list[Result], dict[str, Result]]:
    """Ours, then `generate` as torch comes and with its two settings made."""
    common = {"model": bench.model, "folder": bench.folder, "dtype": dtype, "prompts": prompts}
    common |= {"stop": stops(bench.folder), "repeats": bench.repeats}
    common |= {"batches": [2] if bench.small else [size for size in BATCHES if size <= max(len(prompts), BATCHES[0])]}
    ours = run_side(bench, script, "ours", common)
    lines = []
    for name, tuned in (("generate", False), ("generate, tuned", True)):
        peer = run_side(bench, script, "peer", {**common, "tuned": tuned})
        target = targets.get(f"{name}, {dtype}")
        lines.append(line(f"{work}, {dtype}, an answer, against `{name}`", dtype, ours, peer, target))
    return lines, {"ours": ours, "peer": peer}
