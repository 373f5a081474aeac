"""Endpoint: a model behind a server that speaks the OpenAI protocol, as a catalogue entry says it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(min_length=1)]
LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _plain_url(url: str) -> str:
    """A URL that carries no secret: it stands in logs, reports and keys."""
    url = url.strip()
    if not url.isprintable() or any(character.isspace() for character in url):
        raise ValueError("may hold no blank and no control character")
    parts = urlsplit(url)
    try:
        _ = parts.port  # read here, or a library would stumble over it
    except ValueError as error:
        raise ValueError("names a port that is no number from 0 to 65535") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be the server's base, such as http://localhost:8000/v1")
    if not all(0 < len(label) < 64 for label in parts.hostname.removesuffix(".").split(".")):
        raise ValueError("names no host: between its dots stand 1 to 63 characters")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("may hold no user, password, query or fragment: a key comes from the variable `key_env` names")
    return url.rstrip("/")


def _variable(name: str) -> str:
    """The found text is not repeated: where somebody wrote the key itself, it must not reach a screen or log."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):  # with small letters it might be a key
        raise ValueError(
            "must name an environment variable in capitals, such as OPENAI_API_KEY; never write the key itself here"
        )
    return name


class EndpointSource(BaseModel):
    """Where and how a served model is asked.

    Attributes:
        url: the server's base, up to and with `/v1`.
        model: the name by which the server knows the model.
        api: `chat` sends messages; `completions` sends one plain text, for base models.
        key_env: the environment variable that holds the key.
        fallback: further models of the same server, asked in order where one gives no answer.
        concurrency: requests under way at once, at most. A chunk of answers is asked for at a time, so more of it than
            a recipe's `chunk_examples` (32) times `samples` has no effect.
        connect_seconds, timeout_seconds: the longest wait for a connection, and for one whole answer.
        retries: how often one request is repeated after a fault that may pass.
        requests_per_minute: repeated ones count; no limit where absent.
        stream: have the answer sent piece by piece, for servers and proxies that cut long silences.
        logprobs: ask for token log-probabilities: they give an answer's confidence.
        length_key: how the server wants the longest answer said.
        context_tokens: the longest prompt and answer. The server's own tokens cannot be counted here, so it is shown
            only; what is too long the server refuses.
        expires_days: answers older than this are asked for again, because a hosted model changes under its name.
        prices: a price file of your own, beside the entry.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    url: Annotated[str, AfterValidator(_plain_url)]
    model: Text
    api: Literal["chat", "completions"] = "chat"
    key_env: Annotated[str, AfterValidator(_variable)] | None = None
    fallback: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    concurrency: int = Field(default=4, ge=1, le=256)
    connect_seconds: Seconds = 10.0
    timeout_seconds: Seconds = 120.0
    retries: int = Field(default=5, ge=0, le=20)
    requests_per_minute: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    stream: bool = False
    logprobs: bool = False
    length_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    context_tokens: int | None = Field(default=None, ge=1)
    expires_days: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    prices: Text | None = None

    @model_validator(mode="after")
    def _distinct_models(self) -> EndpointSource:
        if len(set(self.models)) < len(self.models):
            raise ValueError("`fallback` repeats a model")
        return self

    @model_validator(mode="after")
    def _key_is_covered(self) -> EndpointSource:
        if self.key_env is not None and urlsplit(self.url).scheme == "http" and self.host not in LOOPBACK:
            raise ValueError("a key would be sent in clear: use https, or leave out `key_env`")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """All models that may answer, the wanted one first."""
        return (self.model, *self.fallback)

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def digest(self) -> str:
        """sha256 of what answers depend on. It stands for the weights' digest, which nobody outside the server knows.

        How an answer is fetched (time-outs, retries, rate, streaming) does not change it.
        """
        asked = {"api": self.api, "logprobs": self.logprobs, "length_key": self.length_key}
        content = {"url": self.url, "models": self.models, **asked}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
