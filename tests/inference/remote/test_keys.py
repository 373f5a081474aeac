"""A key is sent to its server and goes nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_server import FaultyServer

from toolkit.errors import ModelError
from toolkit.inference import RemoteModel, Sampling
from toolkit.rendering import Prompt

Make = Callable[..., RemoteModel]
KEY = "sk-very/secret-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")


def test_the_key_is_sent_as_bearer_token(server: FaultyServer, make_model: Make, prompts: list[Prompt]) -> None:
    make_model(key_env="MY_KEY").generate(prompts[:1], Sampling(5))
    assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"


def test_without_a_variable_no_key_is_sent(server: FaultyServer, make_model: Make, prompts: list[Prompt]) -> None:
    make_model().generate(prompts[:1], Sampling(5))
    assert "Authorization" not in server.requests[0][1]


@pytest.mark.parametrize("padding", [20, 183])
@pytest.mark.parametrize("fault", ["400", "401", "404", "500", "429", "redirect", "error with the key"])
def test_no_error_log_or_file_holds_the_key(
    server: FaultyServer,
    make_model: Make,
    prompts: list[Prompt],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    padding: int,
) -> None:
    """The server of these tests repeats the key in its errors, as some do."""
    caplog.set_level(logging.DEBUG)
    model = make_model(key_env="MY_KEY", retries=1, concurrency=1)
    model.generate(prompts[:2], Sampling(5))
    server.faults.extend([fault] * 2)
    server.padding = padding
    with pytest.raises(ModelError) as caught:
        model.generate(prompts, Sampling(5))
    for part in (KEY, KEY.replace("/", "\\/"), KEY[:7]):
        assert part not in str(caught.value)
    assert KEY not in caplog.text
    assert KEY not in f"{vars(model)}"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(KEY.encode() not in path.read_bytes() for path in files)


def test_a_key_is_no_part_of_what_is_kept(server: FaultyServer, make_model: Make, prompts: list[Prompt]) -> None:
    make_model(key_env="MY_KEY").generate(prompts, Sampling(5))
    make_model().generate(prompts, Sampling(5))
    assert len(server.requests) == len(prompts)


@pytest.mark.parametrize("proxy", ["http://me:hunter/2@proxy:8080", "http://me:hunter#2@proxy:8080", "ftp://proxy"])
def test_a_proxy_that_is_no_url_is_told_without_its_password(
    make_model: Make, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ModelError, match="the proxy that the environment names") as caught:
        make_model(url="http://server.example/v1").generate(prompts[:1], Sampling(5))
    assert "hunter" not in str(caught.value)


def test_certificates_that_are_not_there_are_told_before_anything_is_computed(
    make_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/gone.pem")
    with pytest.raises(ModelError, match="SSL_CERT_FILE"):
        make_model(url="https://server.example/v1").check_key()


def test_an_empty_variable_is_told_before_anything_is_sent(
    server: FaultyServer, make_model: Make, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY")
    model = make_model(key_env="MY_KEY")
    for ask in (model.check_key, lambda: model.generate(prompts, Sampling(5))):
        with pytest.raises(ModelError, match="put it into the environment variable MY_KEY"):
            ask()
    assert not server.requests


@pytest.mark.parametrize("key", ["sk-with space", "sk-with-\u2026", "sk-two\nlines"])
def test_a_key_that_cannot_be_one_is_refused_without_printing_it(
    make_model: Make, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ModelError, match="MY_KEY holds characters that no key has") as caught:
        make_model(key_env="MY_KEY").check_key()
    assert "sk-" not in str(caught.value)
