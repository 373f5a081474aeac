"""load_recipe: from a name or path, and overrides, to a checked recipe or all that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from toolkit.errors import RecipeError, listing
from toolkit.recipe import override
from toolkit.recipe.canonical import canonical_content, canonical_digest, canonical_text
from toolkit.recipe.contrasts import assembled, contrast_problems, default_baseline
from toolkit.recipe.document import Document, Origin, Problem, Reader, problem_at
from toolkit.recipe.explain import found_text, validated
from toolkit.recipe.parts import Strategies, read_strategies
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.schema import RecipeFile
from toolkit.resources import find
from toolkit.tasks.problems import shown


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, applies overrides and checks everything that can be checked without task or model.

    Args:
        name_or_path: a path, or the name of a shipped recipe.
        overrides: `key=value` by dotted path, for example `strategies.rag.retrieve.top_k=5`.

    Raises:
        RecipeError: nothing is found, or the recipe says what cannot be; all its problems at once, each with file and
            line (or the override) and key, what was found, what is allowed and the nearest match.
    """
    path = find(str(name_or_path), "recipes")
    heading = f"recipe '{path.stem}'"
    document, problems = _document(path)
    if document is None:
        raise RecipeError(_listed(problems, heading))
    for number, text in enumerate(overrides):
        problems += override.apply(document, text, number)
    if document.data.get("name") is None:
        document.data["name"] = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem)
    file = validated(RecipeFile, document.data, document)
    strategies = read_strategies(document)
    problems += [*strategies.problems, *contrast_problems(document)]
    if isinstance(file, list) or problems:
        raise RecipeError(_listed([*problems, *(file if isinstance(file, list) else [])], heading))
    return _recipe(path, document, file, strategies)


def _document(path: Path) -> tuple[Document | None, list[Problem]]:
    """The file's values; None, with the reason, where it holds no mapping."""
    reader = Reader(lambda line: Origin(line, f"{shown(path)}:{line}"))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return None, [problem_at(Origin(0, shown(path)), (), f"cannot be read: {error}")]
    data = reader.read(text)
    if isinstance(data, dict):
        return Document(data, reader.origins), reader.problems
    if not reader.problems:
        keys = ", ".join(RecipeFile.model_fields)
        message = f"must be a mapping of keys to values, found {found_text(data)}; keys: {keys}"
        reader.problems.append(problem_at(reader.origins[()], (), message))
    return None, reader.problems


def _recipe(path: Path, document: Document, file: RecipeFile, strategies: Strategies) -> Recipe:
    baseline = file.baseline
    if baseline is None:
        baseline = default_baseline(dict(file.strategies))
    file = file.model_copy(update={"baseline": baseline})
    stacks = tuple(strategies.found.values())
    content = canonical_content(file, stacks, strategies.overrides)
    return Recipe(
        path=path,
        name=file.name or path.stem,
        description=file.description,
        task=file.task,
        model=file.model,
        models=file.models,
        embedder=file.embedder,
        template=file.template,
        dtype=file.dtype,
        device=file.device,
        answer_by=file.answer_by,
        decoding=file.decoding,
        likelihood=file.likelihood,
        seeds=file.seeds,
        strategies=stacks,
        overrides=strategies.overrides,
        baseline=baseline,
        contrasts=assembled(file.contrasts, stacks, baseline, file.margin),
        margin=file.margin,
        metrics=file.metrics,
        limit=file.limit,
        over_length=file.over_length,
        timing_examples=file.timing.examples,
        chunk_examples=file.chunk_examples,
        batch_tokens=file.batch_tokens,
        unequal_trials=file.unequal_trials,
        alpha=file.alpha,
        text=canonical_text(content),
        digest=canonical_digest(content),
        document=document,
    )


def _listed(problems: Sequence[Problem], heading: str) -> str:
    ordered = sorted(problems, key=lambda problem: problem.order)
    return listing(list(dict.fromkeys(problem.text for problem in ordered)), heading)
