"""What a person can put right: bad recipes, data, models and machines.

Every error carries one message that says what was found, where, and what is allowed. The command line prints it
without a traceback and exits with code 2; anything that is not a `ToolkitError` is a defect of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class ToolkitError(Exception):
    """Base of all errors that the user can mend."""


class RecipeError(ToolkitError, ValueError):
    """A recipe, override or configuration file says something that cannot be done."""


class DataError(ToolkitError, ValueError):
    """A task, split, corpus or template is missing, unreadable or inconsistent."""


class ModelError(ToolkitError, RuntimeError):
    """A model or embedder cannot be found, fetched, verified, loaded or used as asked."""


class FairnessError(ToolkitError, ValueError):
    """A comparison was refused because it would not compare what it says."""


class RunError(ToolkitError, RuntimeError):
    """A run folder or the machine (disk, memory) stands in the way; finished work is kept."""


class OverLengthError(DataError):
    """A prompt stays longer than the model's context after everything droppable was dropped."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest allowed word, or an empty string."""
    close = get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def listing(problems: Sequence[str], heading: str) -> str:
    """One message out of several problems, a line each."""
    if len(problems) == 1:
        return f"{heading}: {problems[0]}"
    return "\n".join([f"{heading}: {len(problems)} problems", *(f"  - {problem}" for problem in problems)])


def yaml_fault(error: Exception) -> tuple[int, str]:
    """Where a YAML reader's error lies (a line, from 1) and what it is.

    The error's own text repeats the line, in which a key or a password may stand.
    """
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return 1 if mark is None else int(mark.line) + 1, " ".join(str(problem or error).split())
