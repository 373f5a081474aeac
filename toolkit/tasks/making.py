"""`make`: splits out of files, seeded, without overlap in rows, content or groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolkit.errors import DataError
from toolkit.seeds import derive
from toolkit.tasks.near_duplicates import NearDuplicates
from toolkit.tasks.rows import Located
from toolkit.tasks.schema import By, Make, SourceKey
from toolkit.tasks.splits import first_target, grouped, stratified
from toolkit.tasks.task import Split
from toolkit.tasks.texts import input_text, plain

# Test first: its rows then depend on no other number in the recipe.
ORDER: tuple[Split, ...] = ("test", "validation", "train")


def make_splits(
    sources: Mapping[SourceKey, Sequence[Located]], make: Make, by: By, heading: str
) -> dict[Split, list[Located]]:
    """Train, validation and test.

    Args:
        sources: rows by file: `all`, or `train` and whichever others there are.

    Raises:
        DataError: a split has neither a number nor a file, or there are too few rows.
    """
    content = _Content([item for rows in sources.values() for item in rows]) if make.distinct else None
    pool: SourceKey = "all" if "all" in sources else "train"
    splits: dict[Split, list[Located]] = {}
    for split in ORDER:
        own = split in sources
        wanted: int | None = getattr(make, split)
        if wanted is None and not own and split != "train":
            raise DataError(f"{heading}: make.{split}: there is no file for {split}, so it needs a number of rows")
        taken = [item for chosen in splits.values() for item in chosen]
        candidates = _left(sources[split if own else pool], taken, by, content)
        if not own and split != "train" and by == "label":
            candidates = _leaving_each_label(candidates, wanted or 0)
        try:
            splits[split] = _draw(candidates, wanted, by, derive(make.seed, f"make {split}"))
        except DataError as error:
            raise DataError(f"{heading}: make.{split}: {error}, {_why_not_more(by, make.distinct)}") from error
        if not splits[split]:
            raise DataError(f"{heading}: make.{split}: no row is left, {_why_not_more(by, make.distinct)}")
    return splits


class _Content:
    """Which rows say the same, or nearly."""

    def __init__(self, located: Sequence[Located]) -> None:
        texts = [input_text(item.example) for item in located]
        index = NearDuplicates(texts)
        self.same = {item.where: plain(text) for item, text in zip(located, texts, strict=True)}
        self._shapes = {item.where: shape for item, shape in zip(located, index.shapes, strict=True)}
        self._near = index.near

    def clear_of(self, candidates: Sequence[Located], taken: Sequence[Located]) -> list[Located]:
        """Candidates unlike everything taken, and identical ones only once."""
        blocked = {other for item in taken for other, _ in self._near[self._shapes[item.where]]}
        seen: set[str] = set()
        clear = []
        for item in candidates:
            said = self.same[item.where]
            if self._shapes[item.where] not in blocked and said not in seen:
                seen.add(said)
                clear.append(item)
        return clear


def _left(candidates: Sequence[Located], taken: Sequence[Located], by: By, content: _Content | None) -> list[Located]:
    places = {item.where for item in taken}
    groups = {item.example.cluster for item in taken} if by == "group" else set()
    left = [item for item in candidates if item.where not in places and item.example.cluster not in groups]
    return left if content is None else content.clear_of(left, taken)


def _draw(candidates: Sequence[Located], wanted: int | None, by: By, seed: int) -> list[Located]:
    if wanted is None:
        return list(candidates)
    if by == "group":
        drawn = grouped([item.example.cluster for item in candidates], wanted, seed)
    else:
        drawn = stratified([first_target(item.example) if by == "label" else "" for item in candidates], wanted, seed)
    return [candidates[index] for index in drawn]


def _leaving_each_label(candidates: list[Located], wanted: int) -> list[Located]:
    """The candidates without one row of each label, if that is enough, so that train gets the rare labels too."""
    last = {first_target(item.example): item.where for item in candidates}
    fewer = [item for item in candidates if last[first_target(item.example)] != item.where]
    return fewer if len(fewer) >= wanted else candidates


def _why_not_more(by: By, distinct: bool) -> str:
    reasons = ["after `keep` and the splits taken before it (test, validation, train)"]
    if by == "group":
        reasons.append("with no group in two splits")
    if distinct:
        reasons.append("with no near-duplicates across splits (`distinct: false` allows them)")
    return ", ".join(reasons)
