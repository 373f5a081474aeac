"""LoRA training, the sides: `toolkit`'s step and TRL's `SFTTrainer`, from the same adapter on the same rows.

Timed on both: epochs, the model loaded and the rows tokenised before. The first ("cold") holds what a training sets up:
ours its probe against the stock model, the peer its data loader. Memory is counted from the loaded model without
adapter. TRL's ids and labels are handed back, for they must equal ours.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curves import body_parameters, limit, load
from generating import tune_by_hand
from measure import Peak, Result, Work

RANK, ALPHA, RATE, CLIP, BETAS = 16, 32, 2e-4, 1.0, (0.9, 0.999)
IGNORED = -100
"""TRL's label of a token that is not supervised."""
COMMAND = {
    "TRL as documented": "SFTTrainer(PeftModel, args=SFTConfig(per_device_train_batch_size=8, learning_rate=2e-4, "
    'lr_scheduler_type="constant", bf16=True, gradient_checkpointing=False, ...), train_dataset=prompts and '
    "completions).train()   # random order, sdpa",
    "TRL at its best": 'the same with attn_implementation="eager", train_sampling_strategy="sequential" on rows sorted '
    'longest first, after torch.backends.mkldnn.matmul.fp32_precision = "bf16" and mallopt(M_MMAP_THRESHOLD, 1 << 30), '
    "mallopt(M_TRIM_THRESHOLD, 2**31 - 1)",
}


# --- the rows --------------------------------------------------------------------------------------------------------


def plain_rows(folder: str, pairs: Sequence[dict[str, str]]) -> list[Work]:
    """Prompts and completions with the ids and the labels both sides must train on: EOS is the last supervised one."""
    from transformers import AutoTokenizer

    tokenizer, rows = AutoTokenizer.from_pretrained(folder), []
    for pair in pairs:
        prompt, completion = (tokenizer(pair[part], add_special_tokens=False)["input_ids"] for part in pair)
        taught = [*completion, tokenizer.eos_token_id]
        rows.append({**pair, "ids": [*prompt, *taught], "labels": [IGNORED] * len(prompt) + taught})
    return longest_first(rows)


def chat_rows(folder: str, chats: Sequence[Sequence[dict[str, Any]]]) -> list[Work]:
    """Conversations whose assistant turns are supervised, through the model's chat template: ids and labels only."""
    from transformers import AutoTokenizer

    from toolkit import Renderer
    from toolkit.tasks.messages import Message

    said = [[Message(**turn, supervise=turn["role"] == "assistant") for turn in chat] for chat in chats]
    rows = []
    for made in Renderer(AutoTokenizer.from_pretrained(folder)).training_sequences(said):
        pairs = zip(made.token_ids, made.supervised, strict=True)
        rows.append({"ids": list(made.token_ids), "labels": [token if kept else IGNORED for token, kept in pairs]})
    return longest_first(rows)


def longest_first(rows: Sequence[Work]) -> list[Work]:
    """The order of ours and of TRL at its best: least padding, and memory grows once."""
    return sorted(rows, key=lambda row: -len(row["ids"]))


def tokens(rows: Sequence[Work]) -> int:
    """Tokens of an epoch; padding is none of them."""
    return sum(len(row["ids"]) for row in rows)


def supervised(rows: Sequence[Work]) -> int:
    """Supervised tokens of an epoch."""
    return sum(label != IGNORED for row in rows for label in row["labels"])


# --- ours ------------------------------------------------------------------------------------------------------------


class Ours:
    """What `toolkit.tuning.train` does between its plan and its summary, on batches that are given."""

    def __init__(self, module: Any, rows: Sequence[Work], folder: str | None = None) -> None:
        """Where a folder is given, the fresh adapter is written there for the peer."""
        from toolkit.rendering.prompt import TrainingSequence
        from toolkit.tuning.adapter import new_adapter, save_adapter
        from toolkit.tuning.settings import TuneSettings

        self._settings = TuneSettings(rank=RANK, alpha=ALPHA, learning_rate=RATE, schedule="constant", warmup_share=0)
        self._sequences = [
            TrainingSequence(tuple(row["ids"]), tuple(label != IGNORED for label in row["labels"])) for row in rows
        ]
        self._adapted = new_adapter(module, self._settings, seed=0)
        self.computed, self.how = 0, ""
        if folder is not None:
            save_adapter(self._adapted, folder)

    def prepare(self) -> None:
        """Chooses the step, which the first epoch pays for."""
        import torch

        from toolkit.tuning.micro_batches import MicroBatches
        from toolkit.tuning.objective import CrossEntropy
        from toolkit.tuning.steps.choosing import choose

        view = self._adapted.get_base_model().train()
        longest = max(len(sequence.token_ids) for sequence in self._sequences)
        self._step, self._weights, self.how = choose(view, 0.0, longest)
        self._micro_batches = MicroBatches(self._step, self._weights, CrossEntropy(self._sequences), self._settings)
        vector = self._weights.vector
        self._optimiser = torch.optim.AdamW([vector], lr=RATE, betas=BETAS, weight_decay=0.0, fused=True)

    def epoch(self, batch: int) -> list[float]:
        """The losses of one pass through the rows in their order."""
        import torch

        losses, count = [], len(self._sequences)
        self.computed = 0
        for first in range(0, count, batch):
            chosen = tuple(range(first, min(first + batch, count)))
            losses.append(self._micro_batches.accumulate(chosen))
            torch.nn.utils.clip_grad_norm_([self._weights.vector], CLIP)
            self._optimiser.step()
            for rows in self._micro_batches.cut(chosen):
                self.computed += self._step.tokens([self._sequences[row] for row in rows])
        return losses


def train_ours(work: Work) -> Result:
    """Runs ours; the adapter it starts from is left in `work["adapter"]`."""
    module = load(work).module
    peak = Peak(module)
    ours = Ours(module, work["rows"], work["adapter"])
    losses, ends = [], [time.perf_counter()]
    ours.prepare()
    for _ in range(work["epochs"]):
        losses += ours.epoch(work["batch"])
        ends.append(time.perf_counter())
    return {
        **_timed(ends, work, losses, peak.above()),
        "step": ours.how,
        "computed_tokens": ours.computed,
        "limit_flops": limit(module),
        "flops": epoch_flops(module, tokens(work["rows"]), supervised(work["rows"])),
    }


def epoch_flops(module: Any, seen: int, taught: int) -> float:
    """What an epoch must compute: the frozen body forward and back, and the head where something is learnt."""
    head = int(module.get_input_embeddings().weight.numel())
    return 4.0 * (body_parameters(module) * seen + head * taught)


def _timed(ends: Sequence[float], work: Work, losses: Sequence[float], above: int) -> Result:
    epochs = [end - start for start, end in itertools.pairwise(ends)]
    made = {"cold_seconds": epochs[0], "seconds": epochs[1:], "rows": len(work["rows"]), "peak_bytes": above}
    return {**made, "losses": list(losses)}


# --- the peer --------------------------------------------------------------------------------------------------------


def train_peer(work: Work) -> Result:
    """Runs TRL as its documentation shows it."""
    return _trl(work, attention="sdpa", order="random")


def train_best(work: Work) -> Result:
    """Runs TRL with all that was found to make it faster here."""
    tune_by_hand()
    return _trl(work, attention="eager", order="sequential")


def _trl(work: Work, attention: str, order: str) -> Result:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from datasets import Dataset

    losses: list[float] = []

    class Told(SFTTrainer):  # type: ignore[misc]
        """Its log rounds the losses; one batch is one step here."""

        def compute_loss(self, *given: Any, **named: Any) -> Any:
            found = super().compute_loss(*given, **named)
            losses.append(float((found[0] if isinstance(found, tuple) else found).detach()))
            return found

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    dtype = getattr(torch, work["dtype"])
    model = AutoModelForCausalLM.from_pretrained(work["folder"], dtype=dtype, attn_implementation=attention)
    peak = Peak(model)
    adapted = PeftModel.from_pretrained(model, work["adapter"], is_trainable=True)
    rows = [
        {key: row[key] for key in ("prompt", "completion")}
        if "prompt" in row
        else {"input_ids": row["ids"], "labels": row["labels"]}
        for row in work["rows"]
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=str(Path(folder)),
            per_device_train_batch_size=work["batch"],
            num_train_epochs=work["epochs"],
            learning_rate=RATE,
            lr_scheduler_type="constant",
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            weight_decay=0.0,
            max_grad_norm=CLIP,
            bf16=work["dtype"] == "bfloat16",
            use_cpu=True,
            max_length=1024,
            gradient_checkpointing=False,
            train_sampling_strategy=order,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        )
        trainer = Told(
            adapted,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(work["folder"]),
            callbacks=[Clock()],
        )
        ends = [time.perf_counter()]
        trainer.train()
    seen = trainer.train_dataset
    made = _timed(ends, work, losses, peak.above())
    return {**made, "ids": [list(ids) for ids in seen["input_ids"]], "labels": [list(one) for one in seen["labels"]]}
