"""Where a setting's path leads: from the working directory or from the recipe's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from toolkit.errors import nearest


def candidates(path: str, recipe: Path | None) -> list[Path]:
    """Where it may lie, in the order in which that is looked at; an absolute one is itself."""
    return list(dict.fromkeys(base / Path(path).expanduser() for base in _bases(recipe)))


def not_there(path: str, recipe: Path | None, kind: str, is_one: Callable[[Path], bool]) -> str:
    """The problem of a path that leads nowhere: what was looked for where, and the nearest of what lies beside.

    Args:
        kind: what it should have been, in words.
        is_one: whether a path is one of these.
    """
    looked = "" if Path(path).is_absolute() else f"; looked in {' and '.join(map(str, _bases(recipe)))}"
    parents = {place.parent for place in candidates(path, recipe)}
    beside = [one.name for parent in parents if parent.is_dir() for one in parent.iterdir() if is_one(one)]
    return f"there is no {kind} '{path}'{nearest(Path(path).name, beside)}{looked}"


def _bases(recipe: Path | None) -> list[Path]:
    return list(dict.fromkeys([Path.cwd(), *([] if recipe is None else [recipe.resolve().parent])]))
