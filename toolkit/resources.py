"""Where shipped recipes, configurations and datasets lie, in a source checkout and in an installed wheel alike."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from toolkit.errors import DataError, ModelError, RecipeError, ToolkitError, nearest

_PACKAGE = Path(__file__).resolve().parent
_KINDS = ("recipes", "configs", "datasets")
_ERRORS: dict[str, type[ToolkitError]] = {
    "datasets": DataError,
    "configs/models": ModelError,
    "configs/embedders": ModelError,
}


def shipped(kind: str) -> Path:
    """The folder of everything shipped of one kind: `recipes`, `configs`, `datasets`, or a folder below one of them.

    Raises:
        RecipeError: the kind is none of these, or neither a wheel nor a checkout holds the folder.
    """
    top = kind.split("/")[0]
    if top not in _KINDS:
        raise RecipeError(f"nothing of kind '{kind}' is shipped{nearest(top, _KINDS)}; kinds: {', '.join(_KINDS)}")
    installed = _PACKAGE / "shipped"
    root = installed if installed.is_dir() else _PACKAGE.parent
    folder = root / kind
    if not folder.is_dir():
        raise RecipeError(f"the shipped folder '{kind}' is missing at {folder}; the installation is incomplete")
    return folder


def find(
    name: str,
    kind: str,
    beside: Path | None = None,
    suffixes: Sequence[str] = (".yaml", ".yml"),
    holds: str = "",
) -> Path:
    """The file or folder a name means: as a path, else beside the file that names it, else among what is shipped.

    Args:
        name: a path (absolute, or relative to the working directory), or the name of something shipped.
        kind: where to look last, as in `shipped`, for example `recipes` or `configs/models`.
        beside: the file (or its folder) in which the name was written.
        suffixes: endings that may be left off. An empty string among them also allows a folder, or a bare file name.
        holds: the file that makes a folder the thing that is meant. Another folder that happens to have the name is
            taken only where nothing else is found.

    Raises:
        RecipeError, DataError, ModelError: (by kind) nothing is found; the message lists what exists.
    """
    folders = [Path.cwd()]
    if beside is not None:
        folders.append(beside if beside.is_dir() else beside.parent)
    folders.append(shipped(kind))
    doubtful: list[Path] = []
    for folder in folders:
        for candidate in _spellings(folder / Path(name).expanduser(), suffixes):
            if candidate.is_dir() and "" in suffixes and holds and not (candidate / holds).exists():
                doubtful.append(candidate)
            elif candidate.is_file() or ("" in suffixes and candidate.exists()):
                return candidate
    if doubtful:
        return doubtful[0]
    existing = available(kind, suffixes)
    places = ", ".join(dict.fromkeys(str(folder) for folder in folders))
    raise _ERRORS.get(kind, RecipeError)(
        f"'{name}' was not found{nearest(name, existing)}; looked in {places}; "
        f"shipped in {kind}: {', '.join(existing) or 'nothing'}"
    )


def available(kind: str, suffixes: Sequence[str] = (".yaml", ".yml")) -> list[str]:
    """The names that `find` knows among what is shipped, sorted, without their endings."""
    names: set[str] = set()
    for path in shipped(kind).iterdir():
        if path.name.startswith((".", "__")):
            continue
        endings = [suffix for suffix in suffixes if suffix and path.name.endswith(suffix)]
        if endings and path.is_file():
            names.add(path.name.removesuffix(endings[0]))
        elif "" in suffixes and path.is_dir():
            names.add(path.name)
    return sorted(names)


def cache_folder() -> Path:
    """Where fetched models and computed digests are kept: `TOOLKIT_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("TOOLKIT_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("adaptation-toolkit", appauthor=False))


def _spellings(path: Path, suffixes: Sequence[str]) -> Iterable[Path]:
    """The path as written where its ending is allowed, then with each ending added."""
    if any(path.name.endswith(suffix) for suffix in suffixes):
        yield path
    for suffix in suffixes:
        if suffix:
            yield path.with_name(path.name + suffix)
