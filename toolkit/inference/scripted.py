"""ScriptedModel: answers by a function. The test double of every model, and a plan's dry run."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence

from toolkit.errors import ModelError
from toolkit.inference.model import FoundationModel, Generation, Sampling, Weights
from toolkit.rendering.prompt import Prompt
from toolkit.rendering.renderer import Renderer


class ScriptedModel:
    """A model that says what `reply` returns for a prompt.

    Args:
        reply: from a prompt to the text of the answer.
        name: stands in the score table; a hosted model has only a name too.
        renderer: give one with a tokeniser to have token ids; without, prompts are messages only.
        confidence: reported with every answer.
        digest: of the script; without one nothing another instance answered is taken for this one's.
    """

    can_be_tuned = False

    def __init__(
        self,
        reply: Callable[[Prompt], str],
        name: str = "scripted",
        renderer: Renderer | None = None,
        context_tokens: int | None = None,
        confidence: Callable[[Prompt], float] | None = None,
        digest: str | None = None,
    ) -> None:
        self._reply = reply
        self._confidence = confidence
        self.name = name
        self.digest = digest if digest is not None else uuid.uuid4().hex
        self.renderer = renderer if renderer is not None else Renderer(None)
        self.context_tokens = context_tokens
        self.can_score = self.renderer.chat is not None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Generation]:
        return [self._generation(prompt) for prompt in prompts]

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[tuple[float, ...]]:
        """The scripted reply has probability .9, the others share the rest."""
        scores = []
        for prompt, choices in zip(prompts, continuations, strict=True):
            said = self._reply(prompt)
            texts = [self.renderer.text(choice) for choice in choices]
            rest = math.log(0.1 / max(1, len(texts) - 1))
            scores.append(tuple(math.log(0.9) if text == said else rest for text in texts))
        return scores

    def adapted(self, weights: Weights, merged: bool = False) -> FoundationModel:
        raise ModelError(f"the scripted model '{self.name}' cannot carry adapted weights")

    def _generation(self, prompt: Prompt) -> Generation:
        text = self._reply(prompt)
        ids = () if self.renderer.chat is None else tuple(self.renderer.chat.encode(text))
        confidence = None if self._confidence is None else self._confidence(prompt)
        return Generation(text, ids, "stop", confidence)
