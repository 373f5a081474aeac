"""Goal: prefill at 60 % of the machine's limit, and a 4,096-token prompt in little more memory than a 512-token one.

usage: python benchmarks/curves.py [--lengths 128 256 512 1024 2048 4096] [--batches 1 4 16] [--rows 1 4 16 32 64]

Ours alone. Every point is a process of its own. Prefill is an answer of one token, so it holds one product with the
head a row. The limit is the best matrix product of the model's own shapes in the same process and dtype; the work is
that of the non-padding tokens. Writes `curves.json` and `curves.svg`.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

from curves_chart import draw
from generating import by_hand
from measure import Bench, Peak, Result, Work, opened, parser, run_side, save, say, serve, stamp
from workloads import read_rows

MOST_TOKENS = 16_384
DECODED = 32
PROMPT = 256
"""Tokens before the decoded ones."""


def load(work: Work) -> Any:
    from toolkit.models import load_pretrained, resolve, tune_cpu

    tune_cpu()
    return load_pretrained(resolve(work["model"], "model"), work["dtype"])


def timed(loaded: Any, prompts: Sequence[Any], new_tokens: int, repeats: int) -> tuple[list[float], int]:
    """Seconds of each run, and the tokens answered in the last; a fresh `LocalModel` each time."""
    from toolkit import LocalModel
    from toolkit.inference.model import Sampling

    seconds = []
    for _ in range(repeats):
        model = LocalModel.of(loaded)
        assert model.path.startswith("packed")  # asked when a run prepares, once a process
        started = time.perf_counter()
        answers = model.generate(prompts, Sampling(max_new_tokens=new_tokens))
        seconds.append(time.perf_counter() - started)
        del model
    return seconds, sum(len(answer.token_ids) + (answer.termination == "stop") for answer in answers)


def prefill(work: Work) -> Result:
    """One point of the prefill curve: `batch` prompts of `length` tokens that share no prefix."""
    loaded = load(work)
    peak = Peak(loaded.module)
    seconds, _ = timed(
        loaded, by_hand(prompts_of(loaded, work["texts"], work["batch"], work["length"])), 1, work["repeats"]
    )
    above, best = peak.above(), limit(loaded.module)
    flops = prefill_flops(loaded.module, work["batch"], work["length"])
    took = statistics.median(seconds)
    return {
        "seconds": seconds,
        "tokens_per_second": work["batch"] * work["length"] / took,
        "peak_bytes": above,
        "limit_flops": best,
        "share_of_limit": flops / took / best,
    }


def decode(work: Work) -> Result:
    """One point of the decoding curve: tokens a second beyond the first, `batch` rows at once."""
    loaded = load(work)
    prompts = by_hand(prompts_of(loaded, work["texts"], work["batch"], work["length"]))
    peak = Peak(loaded.module)
    first, answered_first = timed(loaded, prompts, 1, work["repeats"])
    whole, answered = timed(loaded, prompts, 1 + DECODED, work["repeats"])
    seconds = statistics.median(whole) - statistics.median(first)
    tokens = answered - answered_first
    return {"seconds": whole, "decode_seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds} | {
        "peak_bytes": peak.above()
    }


def prompts_of(loaded: Any, texts: Sequence[str], rows: int, length: int) -> list[list[int]]:
    """Rows of running text, each from another place, the first tokens all different."""
    ids = loaded.tokenizer("\n\n".join(texts), add_special_tokens=False)["input_ids"]
    step = max(1, (len(ids) - length) // rows)
    cut = [ids[row * step : row * step + length] for row in range(rows)]
    return [[1000 + row, *piece[1:]] for row, piece in enumerate(cut)]


def prefill_flops(module: Any, rows: int, length: int) -> float:
    """Operations of the body's products, of causal attention (half the square) and of the head once a row."""
    config = module.config
    embedding = module.get_input_embeddings().weight
    body = body_parameters(module)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 4 * length**2 * config.num_attention_heads * head_size * config.num_hidden_layers / 2
    return rows * (2.0 * body * length + attention + 2.0 * embedding.numel())


def body_parameters(module: Any) -> int:
    """Parameters without the embedding, which multiplies nothing but the last states."""
    body = sum(parameter.numel() for parameter in module.get_decoder().parameters())
    return int(body - module.get_input_embeddings().weight.numel())


def limit(module: Any) -> float:
    """The best of the model's own products, in operations a second: any layer's weight, 256 to 2,048 tokens.

    In the weights' dtype or in fp32, whichever is faster: a processor without bf16 multiplies it in fp32.
    """
    import torch

    weights = {tuple(p.shape): p for p in module.get_decoder().layers[0].parameters() if p.dim() == 2}
    kinds, best = {module.dtype, torch.float32}, 0.0
    with torch.inference_mode():
        for ((outputs, inputs), weight), dtype in itertools.product(weights.items(), kinds):
            weight = weight.to(dtype)
            for rows in (256, 512, 1024, 2048):
                tokens = torch.randn(rows, inputs).to(dtype)
                for _ in range(8):
                    started = time.perf_counter()
                    torch.nn.functional.linear(tokens, weight)
                    best = max(best, 2.0 * rows * inputs * outputs / (time.perf_counter() - started))
    return best


def points(bench: Bench, side: str, dtype: str, sizes: Sequence[tuple[int, int]]) -> list[Result]:
    """Runs a curve's points, each given as (batch, length)."""
    texts = [row["text"] for row in read_rows(bench.data / "xquad_en" / "documents.jsonl")]
    found = []
    for batch, length in sizes:
        work = {"model": bench.model, "dtype": dtype, "batch": batch, "length": length, "texts": texts}
        made = run_side(bench, __file__, side, {**work, "repeats": bench.repeats})
        named = {"work": f"{side}, {dtype}, {batch} x {length}", "curve": side, "dtype": dtype, "batch": batch}
        found.append({**named, "length": length, **made, **stamp()})
        share = f", {made['share_of_limit']:.0%} of the limit" if "share_of_limit" in made else ""
        memory = f"{made['peak_bytes'] / 1e6:.0f} MB above the model"
        say(f"  {named['work']}: {made['tokens_per_second']:.0f} tokens/s{share}, {memory}")
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096])
    options.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    options.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 32, 64])
    arguments = options.parse_args()
    bench = opened(arguments)
    sizes = [(b, n) for n in arguments.lengths for b in arguments.batches if b * n <= MOST_TOKENS]
    rows = [(count, PROMPT) for count in arguments.rows]
    for dtype in bench.dtypes:
        for side, wanted in (("prefill", sizes), ("decode", rows)):
            found = points(bench, side, dtype, wanted[:2] if bench.small else wanted)
            versions = found[-1]["versions"]
            for one in found:
                del one["versions"]
            save(bench, "curves", found, {"ours": {"versions": versions}})
    draw(bench.results / "curves.json")


if __name__ == "__main__" and not serve(prefill=prefill, decode=decode):
    main()
