"""A real HTTP server on this machine that speaks the OpenAI protocol and fails as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = Mapping[str, Any]

PAGE = {"429": 429, "500": 500, "503": 503, "401": 401, "403": 403, "404": 404, "redirect": 302, "400": 400}


def said(body: Body) -> str:
    """An answer that depends on the whole question."""
    asked = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
    return f"{len(asked)} {sum(map(ord, asked)) % 997}"


class FaultyServer:
    """Answers with `reply(body)` unless a fault is due.

    Attributes:
        faults: names of faults, one a request, used up in the order in which requests come.
        broken: models that always give the fault named.
        requests: path, headers and body of every request.
        answered: whole answers sent, by the question (without the model and the way of delivery).
        lists_logprobs: two tokens of probability 1/2 and 1/8 are told with each answer.
    """

    def __init__(self, reply: Callable[[Body], str] = said) -> None:
        self.reply = reply
        self.faults: deque[str] = deque()
        self.broken: dict[str, str] = {}
        self.requests: list[tuple[str, Mapping[str, str], Body]] = []
        self.answered: Counter[str] = Counter()
        self.lists_logprobs = False
        self.retry_after = "7"
        self.padding = 183  # a key behind it lies across the end of what is shown
        self.slow_seconds = 0.6
        self.seconds = 0.0
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=lambda: self._http.serve_forever(poll_interval=0.02), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def asked_models(self) -> list[str]:
        return [body["model"] for _, _, body in self.requests]

    @contextmanager
    def fault_of(self, handler: BaseHTTPRequestHandler, body: Body) -> Iterator[str]:
        with self._lock:
            self.requests.append((handler.path, dict(handler.headers.items()), body))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fault = self.broken.get(body["model"]) or (self.faults.popleft() if self.faults else "")
        time.sleep(self.seconds)
        try:
            yield fault
        finally:
            with self._lock:
                self._at_once -= 1

    def count(self, body: Body) -> None:
        question = {name: value for name, value in body.items() if name not in ("model", "stream", "stream_options")}
        with self._lock:
            self.answered[json.dumps(question, sort_keys=True)] += 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.fault_of(self, body) as fault:
                    respond(server, self, body, fault)

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        return Handler


def respond(server: FaultyServer, handler: BaseHTTPRequestHandler, body: Body, fault: str) -> None:
    if fault in PAGE:
        echoed = {"error": {"message": f"status {fault} for {handler.headers.get('Authorization')}"}}
        headers = {"Retry-After": server.retry_after} if fault == "429" else {}
        if fault == "redirect":
            headers = {"Location": "http://127.0.0.2:9/v1/chat/completions"}
        send(handler, json.dumps(echoed).encode(), status=PAGE[fault], headers=headers)
    elif fault == "slow":
        time.sleep(server.slow_seconds)
        handler.close_connection = True
    elif fault == "dripping":
        drip(server, handler, body)
    elif fault == "cut":
        send(handler, b'{"choices": [{"message": {"content": "4', promised=500)
    elif fault == "garbled":
        send(handler, b'{"choices": [{"message": {"conte')
    elif fault == "empty":
        send(handler, b'{"choices": []}')
    elif fault == "error with the key":
        key = str(handler.headers.get("Authorization")).replace("/", "\\/")
        said = {"message": f"x {'y' * server.padding} {key}"}
        send(handler, json.dumps({"choices": [{"finish_reason": "error", "error": said}]}).encode())
    elif fault == "error":
        send(handler, b'{"error": {"message": "overloaded"}}')
    elif fault == "half":
        send(handler, events(server, body)[0].encode(), kind="text/event-stream")
    else:
        answer(server, handler, body)


def drip(server: FaultyServer, handler: BaseHTTPRequestHandler, body: Body) -> None:
    """A whole answer, byte by byte, over more time than anybody waits for."""
    raw = json.dumps({"choices": [{"message": {"content": "too late"}, "finish_reason": "stop"}]}).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    handler.close_connection = True
    for place in range(len(raw)):
        try:
            handler.wfile.write(raw[place : place + 1])
        except OSError:
            return
        time.sleep(server.slow_seconds / 40)


def answer(server: FaultyServer, handler: BaseHTTPRequestHandler, body: Body) -> None:
    if body.get("stream"):
        raw, kind = "".join(events(server, body)).encode(), "text/event-stream"
    else:
        text = server.reply(body)
        message = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
        choice = {"index": 0, "finish_reason": "stop", **message, **logprobs(server, body)}
        raw, kind = json.dumps({"choices": [choice], "usage": usage(body, text)}).encode(), "application/json"
    server.count(body)
    send(handler, raw, kind=kind)


def events(server: FaultyServer, body: Body) -> list[str]:
    """The pieces of a stream: the first word, the rest, the end, the mark."""
    text = server.reply(body)
    first, rest = text[: len(text) // 2], text[len(text) // 2 :]
    key = "text" if "prompt" in body else "delta"

    def piece(said: str, finish: str | None = None, **more: Any) -> str:
        content: Any = said if key == "text" else {"content": said}
        event = {"choices": [{"index": 0, key: content, "finish_reason": finish, **more}]}
        return f"data: {json.dumps(event)}\n\n"

    end = f"data: {json.dumps({'choices': [], 'usage': usage(body, text)})}\n\n"
    return [piece(first, **logprobs(server, body)), piece(rest), piece("", "stop"), end, "data: [DONE]\n\n"]


def usage(body: Body, text: str) -> dict[str, int]:
    asked = body["prompt"] if "prompt" in body else " ".join(item["content"] for item in body["messages"])
    return {"prompt_tokens": len(asked.split()), "completion_tokens": len(text.split())}


def logprobs(server: FaultyServer, body: Body) -> dict[str, Any]:
    if not server.lists_logprobs:
        return {}
    values = [-0.6931471805599453, -2.0794415416798357]
    if "prompt" in body:
        return {"logprobs": {"token_logprobs": values}}
    return {"logprobs": {"content": [{"token": "x", "logprob": value} for value in values]}}


def send(
    handler: BaseHTTPRequestHandler,
    raw: bytes,
    status: int = 200,
    kind: str = "application/json",
    headers: Mapping[str, str] | None = None,
    promised: int | None = None,
) -> None:
    """A response; `promised` more bytes than come cut the connection."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(raw) if promised is None else promised))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(raw)
    if promised is not None:
        handler.close_connection = True
