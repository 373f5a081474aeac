from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_commands_say(generator: Any) -> None:
    assert generator.main(["--check"]) == 0


def test_a_stale_page_is_noticed(generator: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator.PAGE = tmp_path / "cli.md"
    assert generator.main(["--check"]) == 1
    generator.PAGE.write_text(generator.page() + "more")
    assert generator.main(["--check"]) == 1
    assert "generate_cli.py" in capsys.readouterr().err
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
