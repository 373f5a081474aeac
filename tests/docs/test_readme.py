"""The README keeps its word: its figures are those of the committed JSON, its examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_readmes_figures_are_those_of_the_committed_json() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "figures.py"), "--check"], check=False)
    assert done.returncode == 0, "README.md is stale: run `python docs/figures.py`"


@pytest.mark.end_to_end
@pytest.mark.parametrize("number", range(len(BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")))))
def test_an_engines_example_runs_alone(number: int, tmp_path: Path) -> None:
    code = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))[number]
    (tmp_path / "datasets").symlink_to(ROOT / "datasets")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_files_shown_in_the_docs_are_the_files() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "include.py"), "--check"], check=False)
    assert done.returncode == 0, "docs/*.md are stale: run `python docs/include.py`"
