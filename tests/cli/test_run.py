from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import Result

import toolkit.recipe
import toolkit.runs.run
from toolkit.commands.verdicts import result_lines, verdict_table
from toolkit.recipe.schema import Decoding
from toolkit.runs.run import RunResult
from toolkit.terminal import painted

Facts = dict[str, Any]


@pytest.fixture
def finished(
    monkeypatch: pytest.MonkeyPatch, command: Callable[..., Result], comparison: Facts, ledger: Facts
) -> Callable[..., Result]:
    """`toolkit run` whose run tells of a notice and then is done."""

    def run(recipe: object, out: Path | None, listener: Any, trackers: Sequence[str], **_: object) -> RunResult:
        listener("notice", {"text": "model-x: downloading"})
        listener("strategy", {"strategy": "zero_shot", "seed": None, "label": "no adaptation"})
        for name in trackers:
            listener("notice", {"text": f"tracked by {name}"})
        return RunResult(out or Path("runs/small"), comparison, ledger)

    strategy = SimpleNamespace(name="zero_shot", seeded=False, uses=())
    recipe = SimpleNamespace(name="small", strategies=(strategy,), seeds=(0,), decoding_of=lambda name: Decoding())
    monkeypatch.setattr(toolkit.recipe, "load_recipe", lambda name, overrides: recipe)
    monkeypatch.setattr(toolkit.runs.run, "run", run)
    return command


def test_progress_goes_to_standard_error_and_the_result_to_standard_output(finished: Callable[..., Result]) -> None:
    result = finished("run", "small", "--out", "runs/mine")
    assert result.exit_code == 0
    assert result.stderr == "small: zero_shot\nmodel-x: downloading\n[1/1] zero_shot: no adaptation\n"
    assert "BETTER" in result.stdout
    assert result.stdout.endswith("report: runs/mine/report.html\nrun:    runs/mine\n")


def test_trackers_are_named_one_by_one(finished: Callable[..., Result]) -> None:
    result = finished("run", "small", "--track", "tensorboard", "--track", "mlflow")
    assert result.exit_code == 0
    assert result.stderr.endswith("tracked by tensorboard\ntracked by mlflow\n")


def test_quiet_gives_nothing_but_the_result(finished: Callable[..., Result]) -> None:
    loud, quiet = finished("run", "small"), finished("run", "small", "--quiet")
    assert quiet.stderr == ""
    assert quiet.stdout == loud.stdout


def test_a_wide_terminal_shows_every_column(comparison: Facts, ledger: Facts) -> None:
    lines = verdict_table(comparison, ledger, 150)
    assert lines[0].split("  ")[0] == "strategy"
    for title in ("score [95 % CI]", "vs baseline", "p (Holm)", "verdict", "tokens/query", "fit", "adapter/index"):
        assert title in lines[0]
    row = next(line for line in lines if line.startswith("rag_with_passages"))
    for cell in ("43.5 [42.5, 44.5]", "+41.5 [35.0, 48.0]", "<.001", "BETTER", "1,265", "42 ms", "3.2 s", "– / 1.2 MB"):
        assert cell in row
    assert "4.9 MB / –" in next(line for line in lines if line.startswith("lora"))


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_never_wraps_and_keeps_what_matters(comparison: Facts, ledger: Facts, width: int) -> None:
    lines = verdict_table(comparison, ledger, width)
    assert max(map(len, lines)) <= width
    assert "score" in lines[0]
    assert "verdict" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["rag_with_passages", "lora", "zero_shot", "few_shot", "oracle"]
    assert "vs baseline" in lines[0]


def test_the_least_important_columns_go_first(comparison: Facts, ledger: Facts) -> None:
    shown = [verdict_table(comparison, ledger, width)[0] for width in range(150, 60, -1)]
    gone = [
        next(place for place, heading in enumerate(shown) if title not in heading)
        for title in ("adapter/index", "fit", "time/query", "tokens/query", "p (Holm)")
    ]
    assert gone == sorted(gone)
    assert len(set(gone)) == len(gone)


def test_a_name_too_long_for_a_narrow_terminal_is_cut(comparison: Facts, ledger: Facts) -> None:
    facts = comparison["strategies"].pop("lora")
    comparison["strategies"]["l" * 90] = facts
    lines = verdict_table(comparison, ledger, 60)
    assert max(map(len, lines)) <= 60
    assert any("…" in line for line in lines)


def test_baseline_control_and_refused_are_named_as_such(comparison: Facts, ledger: Facts) -> None:
    words = {line.split()[0]: line for line in verdict_table(comparison, ledger, 120)[1:]}
    assert "baseline" in words["zero_shot"]
    assert "control" in words["oracle"]
    assert "refused" in words["lora"]


def test_verdicts_are_coloured_only_where_asked(comparison: Facts, ledger: Facts) -> None:
    plain, coloured = (verdict_table(comparison, ledger, 80, colour) for colour in (False, True))
    assert "\x1b" not in "".join(plain)
    assert painted("BETTER", "32") in "".join(coloured)
    assert painted("WORSE", "31") in "".join(coloured)


def test_the_result_says_contrasts_claim_and_notes_within_the_width(comparison: Facts, ledger: Facts) -> None:
    lines = list(result_lines(comparison, ledger, 80))
    text = " ".join(line.strip() for line in lines)
    assert max(map(len, lines)) <= 80
    assert lines[0] == "handbook: points of token F1, 200 test examples"
    assert "- few_shot WORSE zero_shot by some points. What would change it: zero_shot gaining 35.0" in text
    assert "lora against zero_shot is refused: unequal trials" in text
    assert "claim: artefact" in text
    assert "note: The test set has been scored by 1 different recipe here." in text


def test_a_smoke_run_says_so_in_the_verdict_column(comparison: Facts, ledger: Facts) -> None:
    for contrast in comparison["contrasts"]:
        contrast["verdict"] = "SMOKE"
    assert "SMOKE" in verdict_table(comparison, ledger, 80)[1]


def test_a_run_without_costs_or_intervals_still_has_a_table(comparison: Facts) -> None:
    comparison["strategies"]["lora"]["interval"] = [None, None]
    row = next(line for line in verdict_table(comparison, {}, 150) if line.startswith("lora"))
    assert row.split()[:3] == ["lora", "31.0", "–"]
