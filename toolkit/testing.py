"""What every adapter, model and encoder must hold, for tests of your own: each check raises AssertionError with why.

check_adapter(MyAdapter(depth=2), task, model, tmp_path, encoder=HashingEncoder())
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from toolkit.evaluation import metrics_for
from toolkit.inference.local import LocalModel
from toolkit.inference.model import FoundationModel, Sampling
from toolkit.meter import Meter
from toolkit.rendering.prompt import Prompt
from toolkit.rendering.template import Template
from toolkit.retrieval import Encoder
from toolkit.store import Store
from toolkit.strategies.adapter import Adapter, Answerer
from toolkit.strategies.bench import Bench
from toolkit.strategies.fitting import fit
from toolkit.strategies.strategy import NamedAdapter, Strategy
from toolkit.strategies.system import Conditions, System
from toolkit.tasks.task import Task

Continuations = Sequence[tuple[int, ...]]


def check_adapter(
    adapter: Adapter,
    task: Task,
    model: FoundationModel,
    folder: Path,
    encoder: Encoder | None = None,
    systems: Mapping[str, Answerer] | None = None,
    template: str = "answer",
) -> None:
    """Fits the adapter on a small task and holds it to the contract of `toolkit.strategies.adapter`.

    Its settings survive YAML; it answers every example once and in order; targets change nothing; a second fit from
    the Store answers the same; without `seeded` another seed answers the same; the model's weights stay as they are.

    Args:
        task: small, with a test split that the adapter can answer.
        folder: empty; the Store and the fitted parts go there.
        systems: fitted strategies by name, for an adapter that `uses` some.

    Raises:
        AssertionError: which of these does not hold.
    """
    _check_settings(adapter)
    problems = adapter.check(task.without_test())
    _require(not problems, f"`check` refuses this task: {problems}")
    bench = _bench(task, model, folder / "store", encoder, template)
    known = dict(systems or {})
    _require(set(adapter.uses()) <= set(known), f"`uses` names {adapter.uses()}: give these in `systems`")
    before = _weights(model)

    def fitted(name: str, seed: int) -> System:
        strategy = Strategy("checked", (NamedAdapter("adapter", adapter),))
        return fit(strategy, seed, bench, folder / name, lambda asked: known[asked]).system

    system = fitted("first", 0)
    outputs = system.answer(task.test)
    _require(_weights(model) == before, "the base model's weights are not what they were")
    asked = [example.id for example in task.test]
    _require([output.example_id for output in outputs] == asked, "an output is missing, twice there or out of order")
    _require(system.answer(task.test) == outputs, "answering twice gives two results")
    blind = [example.unlabelled(keep_spans=adapter.control) for example in task.test]
    _require(system.answer(blind) == outputs, "without targets (and spans) the answers differ")
    _require(system.answer([]) == [], "no examples must give no outputs")
    _require(fitted("second", 0).answer(task.test) == outputs, "a part saved and loaded answers otherwise")
    if not adapter.seeded:
        _require(
            fitted("third", 1).answer(task.test) == outputs, "`seeded` is False, and another seed answers otherwise"
        )


def check_model(model: FoundationModel, prompts: Sequence[Prompt], choices: Sequence[str] = ("yes", "no")) -> None:
    """Holds a back-end to the contract of `FoundationModel`, on two or more different prompts.

    Raises:
        AssertionError: what does not hold.
    """
    _require(bool(model.name) and bool(model.digest), "name and digest must not be empty")
    _require(model.context_tokens is None or model.context_tokens > 0, "context_tokens must be None or positive")
    sampling = Sampling(max_new_tokens=5)
    said = model.generate(prompts, sampling)
    _require(len(said) == len(prompts), f"{len(prompts)} prompts gave {len(said)} answers")
    _require(model.generate(prompts, sampling) == said, "greedy answers differ from call to call")
    texts = [answer.text for answer in said]
    _require([one.text for one in model.generate(prompts[::-1], sampling)] == texts[::-1], "the prompts' order matters")
    _require([model.generate([one], sampling)[0].text for one in prompts] == texts, "a prompt alone answers otherwise")
    _require(model.generate([], sampling) == [], "no prompts must give no answers")
    for answer in said:
        _require(len(answer.token_ids) <= 5, f"{len(answer.token_ids)} tokens where 5 were allowed")
        _require(not set(answer.token_ids) & model.renderer.stop_ids, "a stop token is part of an answer's ids")
        _require(answer.confidence is None or 0 <= answer.confidence <= 1, f"a confidence of {answer.confidence}")
        if model.renderer.chat is not None:
            _require(model.renderer.text(answer.token_ids) == answer.text, f"text and ids differ: {answer}")
    if model.can_score:
        _check_scores(model, prompts, model.renderer.continuations(choices))


def check_encoder(encoder: Encoder) -> None:
    """Holds an encoder to the contract of `toolkit.retrieval.Encoder`.

    Raises:
        AssertionError: what does not hold.
    """
    import numpy as np

    texts = ["The winch lifts 900 kilograms.", "When does the store open?", "The winch lifts 900 kilograms."]
    encode: Callable[[Sequence[str]], object]
    for encode in (encoder.encode_passages, encoder.encode_queries):
        vectors = np.asarray(encode(texts))
        shape = (len(texts), encoder.dimension)
        _require(vectors.shape == shape and vectors.dtype == np.float32, f"not float32 {shape}: {vectors.shape}")
        _require(bool(np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)), "vectors are not of length 1")
        _require(bool(np.allclose(vectors[0], vectors[2], atol=1e-5)), "equal texts have different vectors")
        _require(not np.allclose(vectors[0], vectors[1], atol=1e-2), "different texts have the same vector")
        alone = np.concatenate([np.asarray(encode([text])) for text in texts])
        _require(bool(np.allclose(alone, vectors, atol=1e-5)), "a text alone is encoded otherwise than in company")
        _require(np.asarray(encode([])).shape == (0, encoder.dimension), "no texts must give an array [0, D]")
    counts = encoder.count_tokens([*texts, ""])
    _require(len(counts) == 4 and min(counts[:3]) > 0 and counts[3] == 0, f"token counts of texts and '': {counts}")
    _require(encoder.max_tokens > 0, "max_tokens must be positive")
    _require(bool(encoder.digest) and encoder.digest == encoder.digest, "the digest is empty or changes")


def _check_scores(model: FoundationModel, prompts: Sequence[Prompt], choices: Continuations) -> None:
    scores = model.score(prompts, [choices] * len(prompts))
    _require([len(row) for row in scores] == [len(choices)] * len(prompts), "not one score a continuation")
    _require(
        all(math.isfinite(score) and score <= 1e-6 for row in scores for score in row), f"no log-likelihoods: {scores}"
    )
    _require(model.score(prompts, [choices] * len(prompts)) == scores, "scores differ from call to call")
    _require(model.score([], []) == [], "no prompts must give no scores")
    turned = model.score(prompts[::-1], [choices[::-1]] * len(prompts))
    for row, other in zip(scores, turned[::-1], strict=True):
        same = all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(row, other[::-1], strict=True))
        _require(same, f"scores depend on the order of prompts or continuations: {row}, {other[::-1]}")


def _check_settings(adapter: Adapter) -> None:
    settings = type(adapter)
    _require(settings.model_validate(adapter.model_dump(mode="json")) == adapter, "the settings do not survive JSON")
    try:
        settings.model_validate({**adapter.model_dump(mode="json"), "no_such_setting": 1})
    except ValidationError:
        return
    raise AssertionError("an unknown setting is taken without a word: keep `extra='forbid'`")


def _bench(task: Task, model: FoundationModel, store: Path, encoder: Encoder | None, template: str) -> Bench:
    scores = task.contract.kind == "choice" and model.can_score
    return Bench(
        task=task.without_test(),
        model=model,
        conditions=Conditions(
            Template.load(template),
            task.contract,
            "likelihood" if scores else "generation",
            Sampling(16),
            shared_groups=task.shared_groups is not None,
        ),
        environment={},
        versions={},
        embedder=None if encoder is None else lambda: encoder,
        primary=metrics_for(task.metrics, task.contract)[0],
        store=Store(store),
        meter=Meter(),
    )


def _weights(model: FoundationModel) -> str:
    from toolkit.models.weights import tensors_digest

    return tensors_digest(model.module) if isinstance(model, LocalModel) else ""


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise AssertionError(reason)
