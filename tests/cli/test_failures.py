from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import toolkit.recipe
import toolkit.runs.run
from toolkit import __version__
from toolkit.errors import RecipeError, RunError

Command = Callable[..., Result]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, command: Command) -> Callable[..., Result]:
    """`toolkit run` whose run raises an error."""

    class Recipe:
        name, strategies = "small", ()

    def go(error: BaseException, *arguments: str) -> Result:
        def run(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(toolkit.recipe, "load_recipe", lambda name, overrides: Recipe())
        monkeypatch.setattr(toolkit.runs.run, "run", run)
        return command(*(arguments or ("run", "small", "--quiet")))

    return go


def test_an_expected_error_is_one_message_and_code_2(failing: Callable[..., Result]) -> None:
    result = failing(RunError("runs/x holds the run of another recipe"))
    assert result.exit_code == 2
    assert result.stderr == "error: runs/x holds the run of another recipe\n"
    assert result.stdout == ""


def test_debug_shows_where_an_expected_error_came_from(failing: Callable[..., Result]) -> None:
    result = failing(RunError("no"), "--debug", "run", "small", "--quiet")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: no\n")


def test_an_interruption_says_how_to_go_on(failing: Callable[..., Result]) -> None:
    result = failing(KeyboardInterrupt())
    assert result.exit_code == 130
    assert result.stderr == "interrupted; run the same command again, without `--fresh`, to go on\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_names_what_to_lower(failing: Callable[..., Result], error: BaseException) -> None:
    result = failing(error)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: out of memory; finished work is kept")
    assert "batch_tokens" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_full_disk_says_where_and_what_to_do(failing: Callable[..., Result]) -> None:
    result = failing(OSError(errno.ENOSPC, "No space left on device", "/data/index"))
    assert result.exit_code == 2
    assert "no space is left on the disk (/data/index); finished work is kept" in result.stderr
    assert "TOOLKIT_CACHE" in result.stderr


def test_a_reader_that_went_away_is_no_noise(failing: Callable[..., Result]) -> None:
    result = failing(BrokenPipeError())
    assert result.exit_code == 1
    assert result.output == ""


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), PermissionError(errno.EACCES, "no"), KeyError("x")])
def test_a_defect_keeps_its_traceback(failing: Callable[..., Result], error: BaseException) -> None:
    with pytest.raises(type(error)):
        failing(error)


def test_a_missing_recipe_names_the_nearest(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("run", "quickstrat")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "did you mean 'quickstart'?" in result.stderr


def test_an_unknown_option_and_an_unknown_command_are_code_2(command: Command) -> None:
    assert command("run", "small", "--limt", "3").exit_code == 2
    unknown = command("rnu")
    assert unknown.exit_code == 2
    assert "'run'" in unknown.stderr


def test_a_report_of_an_unfinished_run_is_refused(command: Command, tmp_path: Path) -> None:
    result = command("report", str(tmp_path))
    assert result.exit_code == 2
    assert "holds no finished run" in result.stderr


def test_version_is_the_packages(command: Command) -> None:
    assert command("--version").stdout == f"toolkit {__version__}\n"


def test_help_names_every_command_with_its_purpose(command: Command) -> None:
    said = command("--help").stdout
    for name in ("run", "validate", "report", "inspect", "predict", "models"):
        assert f"\n  {name} " in said
    assert "..." not in said.split("Commands:")[1]  # no purpose is cut off


@pytest.mark.parametrize("name", ["run", "validate", "report", "inspect", "predict"])
def test_each_commands_help_has_examples_that_are_not_rewrapped(command: Command, name: str) -> None:
    said = command(name, "--help").stdout
    assert f"\n    toolkit {name} " in said
    assert "\b" not in said


def test_a_broken_override_names_the_override(command: Command) -> None:
    result = command("run", "quickstart", "seed=[0]")
    assert result.exit_code == 2
    assert "override 'seed=[0]'" in result.stderr
    assert "did you mean 'seeds'?" in result.stderr


def test_limit_is_the_override_of_that_name(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def load(name: str, overrides: list[str]) -> None:
        seen.append(overrides)
        raise RecipeError("seen")

    monkeypatch.setattr(toolkit.recipe, "load_recipe", load)
    command("run", "small", "seeds=[1]", "--limit", "8")
    assert seen == [["seeds=[1]", "limit=8"]]
