"""From a prompt and a sampling to what is sent: one request a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.inference.model import Sampling
from toolkit.models.endpoint import EndpointSource
from toolkit.rendering.prompt import Prompt
from toolkit.seeds import derive
from toolkit.store import key_of
from toolkit.tasks.messages import Message

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
LARGEST_SEED = 2**31
"""Some servers take a signed 32-bit seed."""
ENDING_CHARACTERS = 60
FORMAT = 2
"""Of what the journal keeps; another is not read."""


@dataclass(frozen=True)
class Request:
    """What is asked of a server, but for the model that is to answer.

    Attributes:
        content: the body's fields on which the answer depends.
        sample: which of a prompt's samples this is.
        key: of the server, the first model, the content and the sample. Never of the API key.
        fallback_key: of all models instead: an answer of a further model counts only where the same ones may answer.
    """

    content: Mapping[str, Any]
    sample: int
    key: str
    fallback_key: str

    @property
    def ending(self) -> str:
        """The last words of what is asked, quoted: by them a person knows the example."""
        said = self.content["messages"][-1]["content"] if "messages" in self.content else self.content["prompt"]
        words = " ".join(str(said).removesuffix("Answer:\n").split())
        return f'"{words if len(words) <= ENDING_CHARACTERS else f"...{words[-ENDING_CHARACTERS:]}"}"'

    def body(self, endpoint: EndpointSource, model: str) -> dict[str, Any]:
        """The JSON body. Streaming is a way of delivery: it is no part of the key."""
        body: dict[str, Any] = {"model": model, **self.content}
        if endpoint.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body


def requests_of(prompt: Prompt, sampling: Sampling, endpoint: EndpointSource) -> list[Request]:
    """One request for each sample; greedy decoding has one.

    Samples are asked for one by one, each under its own seed, because many servers do not take `n`.
    """
    samples = 1 if sampling.temperature == 0 else sampling.samples
    return [_request(prompt, sampling, endpoint, sample) for sample in range(samples)]


def _request(prompt: Prompt, sampling: Sampling, endpoint: EndpointSource, sample: int) -> Request:
    content: dict[str, Any] = {endpoint.length_key: sampling.max_new_tokens, "temperature": sampling.temperature}
    if endpoint.api == "chat":
        content["messages"] = [{"role": said.role, "content": said.content} for said in prompt.messages]
    else:
        content["prompt"] = plain_text(prompt.messages)
    if sampling.temperature > 0:
        content["seed"] = derive(sampling.seed, f"{prompt.digest}/{sample}") % LARGEST_SEED
        content["top_p"] = sampling.top_p
    if sampling.stop:
        content["stop"] = list(sampling.stop)
    if endpoint.logprobs:
        content["logprobs"] = True if endpoint.api == "chat" else 1
    first, every = ([endpoint.model], [*endpoint.models])
    about = {"url": endpoint.url, "api": endpoint.api, "body": content, "sample": sample, "format": FORMAT}
    keys = (key_of({"answer": about, "models": models}) for models in (first, every))
    return Request(content, sample, *keys)


def plain_text(messages: Sequence[Message]) -> str:
    """A conversation for a base model: as local base models are shown it, without control tokens."""
    said = [f"Answer:\n{item.content}" if item.role == "assistant" else item.content for item in messages]
    return "\n\n".join([*said, "Answer:\n"])
