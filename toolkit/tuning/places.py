"""Where a training's files lie: what it leaves, and what it works with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.models.adapter_files import CONFIG, TENSORS
from toolkit.models.whole import WHOLE
from toolkit.tuning import checkpoint
from toolkit.tuning.adapter import check_writable, remove_partials, write_atomically
from toolkit.tuning.selection import Selection

SUMMARY = "training.json"
LEFT = (SUMMARY, CONFIG, TENSORS, WHOLE)
"""What a training leaves in its folder, of one kind or the other."""


@dataclass(frozen=True)
class Places:
    """The folders of a training.

    Attributes:
        folder: for what was trained.
        asked: for the checkpoint and the states looked at, of a caller who removes them. Where None they lie in
            `folder` and go with the end.
    """

    folder: Path
    asked: Path | None

    @property
    def work(self) -> Path:
        return self.folder if self.asked is None else self.asked

    def prepare(self) -> None:
        """Removes what processes that were killed have half written.

        Raises:
            RunError: a folder cannot be written.
        """
        for folder in dict.fromkeys((self.folder, self.work)):
            check_writable(folder)
        remove_partials(*(self.folder / name for name in LEFT), checkpoint.place(self.work))

    def deliver(self, selection: Selection, record: Mapping[str, Any]) -> None:
        """Leaves what was trained, and nothing of another training: by what lies here its kind is told.

        Its record is the last file, and without clocks, so that a repetition writes the same bytes.
        """
        for name in LEFT:
            (self.folder / name).unlink(missing_ok=True)
        selection.deliver(self.folder)
        text = json.dumps(record, indent=2, sort_keys=True) + "\n"
        write_atomically(self.folder / SUMMARY, text.encode())
        if self.asked is None:
            selection.remove()
            checkpoint.remove(self.work)
