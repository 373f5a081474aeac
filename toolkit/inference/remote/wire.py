"""Wire: one HTTP request to its bytes, or to the fault in the way. The only place that knows the key."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from toolkit.errors import ModelError
from toolkit.inference.remote.faults import Busy, Forbidden, Hopeless, Passing, Refused, Unknown
from toolkit.inference.remote.rate import Clock
from toolkit.inference.remote.request import PATHS
from toolkit.inference.remote.response import excerpt
from toolkit.inference.remote.retry import retry_after_seconds
from toolkit.models.endpoint import LOOPBACK, EndpointSource

if TYPE_CHECKING:
    import httpx

MAY_PASS = (408, 409, 425, 429)
"""Statuses below 500 that may pass."""

TURNED_AWAY = (429, 503)
"""Statuses of a server that has not looked at the request."""


def read_key(endpoint: EndpointSource) -> str | None:
    """The key from its variable; None where the entry names none.

    Raises:
        ModelError: the variable is empty or holds what cannot be a key. The message never holds the key.
    """
    if endpoint.key_env is None:
        return None
    key = os.environ.get(endpoint.key_env, "").strip()
    if not key:
        raise ModelError(f"{endpoint.url} wants a key: put it into the environment variable {endpoint.key_env}")
    if not key.isascii() or not key.isprintable() or " " in key:  # an HTTP library would print it in its own error
        raise ModelError(f"the environment variable {endpoint.key_env} holds characters that no key has")
    return key


class Wire:
    """An open connection to an endpoint.

    Args:
        key: sent as bearer token to this endpoint only; redirections are never followed.
    """

    def __init__(self, endpoint: EndpointSource, http: httpx.Client, key: str | None, clock: Clock) -> None:
        self._endpoint, self._http, self._clock = endpoint, http, clock
        self._key = key

    def post(self, body: dict[str, Any]) -> bytes:
        """The bytes of a successful answer.

        Raises:
            Passing, Refused, Hopeless: what stands in the way.
        """
        import httpx

        url = self._endpoint.url + PATHS[self._endpoint.api]
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        deadline = self._clock.steady() + self._endpoint.timeout_seconds
        try:
            with self._http.stream("POST", url, content=json.dumps(body).encode(), headers=headers) as response:
                raw = self._read(response, deadline)
        except httpx.TimeoutException as error:
            raise self._too_slow(isinstance(error, httpx.ConnectTimeout)) from None
        except httpx.ConnectError as error:
            raise Passing(
                f"no connection ({self.redacted(str(error))})", "is the server running, and `url` right?"
            ) from None
        except (httpx.InvalidURL, UnicodeError) as error:  # a host that is no name in any alphabet
            raise Hopeless(f"the URL cannot be used ({self.redacted(str(error))})", "mend `url`") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise Passing(f"the connection broke ({self.redacted(str(error))})") from None
        if not response.is_success:
            self._refuse(response, raw)
        return raw

    def _read(self, response: httpx.Response, deadline: float) -> bytes:
        """The body. A server that sends a byte now and then does not get more time than any other."""
        pieces = []
        for piece in response.iter_bytes():
            pieces.append(piece)
            if self._clock.steady() > deadline:
                raise self._too_slow(False)
        return b"".join(pieces)

    def _too_slow(self, connecting: bool) -> Passing:
        if connecting:
            return Passing(f"no connection within {self._endpoint.connect_seconds:g} s", "is the server running?")
        return Passing(
            f"no whole answer within {self._endpoint.timeout_seconds:g} s",
            "raise `timeout_seconds`, or lower `concurrency`",
        )

    def _refuse(self, response: httpx.Response, raw: bytes) -> None:
        """Raises the fault a status means. What a server says of a key may hold it and is not repeated."""
        status, endpoint = response.status_code, self._endpoint
        said = f"status {status}"
        if status in (401, 403):
            advice = (
                "the server wants a key: name the variable that holds it as `key_env`"
                if endpoint.key_env is None
                else f"check the key in the environment variable {endpoint.key_env}"
            )
            raise (Hopeless if status == 401 else Forbidden)(said, advice)
        if 300 <= status < 400:
            raise Hopeless(f"{said}, a redirection, which is not followed", "give the final address as `url`")
        said += excerpt(self.redacted(raw.decode("utf-8", errors="replace")))
        if status in MAY_PASS or status >= 500:
            wait = retry_after_seconds(response.headers.get("Retry-After"), self._clock.wall())
            said += "" if wait is None else f", which asks to be left alone for {wait:.0f} s"
            advice = "lower `concurrency`, or set `requests_per_minute`" if status == 429 else ""
            raise (Busy if status in TURNED_AWAY else Passing)(said, advice, wait)
        if status == 404:
            raise Unknown(said, "check `model` and `url`")
        raise Refused(said, "check `model`, and whether the prompt is too long")

    def redacted(self, text: str) -> str:
        """Without the key, also as JSON writes its slashes."""
        for written in () if self._key is None else (self._key, self._key.replace("/", "\\/")):
            text = text.replace(written, "[key]")
        return text


@contextmanager
def connected(endpoint: EndpointSource, clock: Clock) -> Iterator[Wire]:
    """A wire for a batch of requests; its connections are used again and closed at the end.

    Raises:
        ModelError: the key is missing.
    """
    import httpx

    key = read_key(endpoint)
    timeout = httpx.Timeout(endpoint.timeout_seconds, connect=endpoint.connect_seconds)
    limits = httpx.Limits(max_connections=endpoint.concurrency)
    proxies = endpoint.host not in LOOPBACK  # a proxy of the environment cannot reach this machine's own servers
    try:
        http = httpx.Client(timeout=timeout, limits=limits, follow_redirects=False, trust_env=proxies)
    except (httpx.InvalidURL, ValueError):  # the error may repeat a part of the proxy's password
        raise ModelError(
            "the proxy that the environment names cannot be used: its URL is malformed or of an unknown kind (in a "
            "password / is written %2F, # %23 and @ %40)"
        ) from None
    except OSError as error:  # of certificates: where SSL_CERT_FILE or SSL_CERT_DIR names what is not there
        raise ModelError(
            f"the certificates by which servers are known cannot be read ({type(error).__name__}): mend or unset "
            "SSL_CERT_FILE and SSL_CERT_DIR"
        ) from error
    except ImportError as error:  # a proxy of a kind that is not installed
        raise ModelError(f"the proxy that the environment names cannot be used: {error}") from error
    with http:
        yield Wire(endpoint, http, key, clock)
