"""Anyone's adapter: one short file, installed under an entry point, works without touching the core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import RecipeError
from toolkit.inference import ScriptedModel
from toolkit.rendering import Prompt
from toolkit.strategies.adapter import Adapter
from toolkit.strategies.strategy import NamedAdapter, Strategy, adapter_class, in_order_of_use, installed_adapters
from toolkit.tasks.contract import TextContract
from toolkit.tasks.example import Example
from toolkit.tasks.task import Task
from toolkit.testing import check_adapter

HERE = Path(__file__).parent / "third_party"
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs adapters as a package would: by a dist-info folder with entry points."""

    def do(package: str = "acme", **points: str) -> None:
        folder = tmp_path / "site" / f"{package}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        lines = "".join(f"{name} = {value}\n" for name, value in points.items())
        (folder / "entry_points.txt").write_text(f"[toolkit.adapters]\n{lines}", encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        monkeypatch.syspath_prepend(str(HERE))
        installed_adapters.cache_clear()

    yield do
    installed_adapters.cache_clear()


@pytest.fixture
def third_party(install: Install) -> Callable[[str], type[Adapter]]:
    install(tool_using="tool_using:ToolUsingAdapter", cascade="cascade:CascadeAdapter")
    return adapter_class


@pytest.fixture
def sums() -> Task:
    rows = [Example(f"{a}+{b}", {"question": f"What is {a}+{b}?"}, (str(a + b),)) for a in (2, 3, 40) for b in (3, 5)]
    return Task("sums", TextContract(), tuple(rows[:2]), tuple(rows[2:4]), None, ("exact_match",), None, tuple(rows))


def calls_a_tool(prompt: Prompt) -> str:
    last = prompt.messages[-1].content
    if last.startswith("= "):
        return last.removeprefix("= ")
    return "CALL " + last.removeprefix("Question: What is ").removesuffix("?") if "40" not in last else "many"


def test_the_files_are_as_short_as_promised_and_use_the_public_names_only() -> None:
    for path in (HERE / "tool_using.py", HERE / "cascade.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 30
        assert [line for line in lines if "toolkit" in line and not line.startswith('"""')] == [
            line for line in lines if line.startswith("from toolkit import ")
        ]


def test_a_tool_using_adapter_computes_before_it_answers(
    third_party: Callable[[str], type[Adapter]], sums: Task, make_bench: Any, fit_on: Any
) -> None:
    adapter = third_party("tool_using")()
    system = fit_on(make_bench(sums, ScriptedModel(calls_a_tool)), adapter).system
    outputs = system.answer(sums.test)
    assert [output.text for output in outputs] == ["5", "7", "6", "8", "many", "many"]
    assert [output.tool_calls for output in outputs] == [
        ("CALL 2+3",), ("CALL 2+5",), ("CALL 3+3",), ("CALL 3+5",), (), ()
    ]  # fmt: skip
    assert [output.usage.calls for output in outputs] == [2, 2, 2, 2, 1, 1]


def test_a_cascade_asks_the_large_stack_only_where_the_small_one_is_unsure(
    third_party: Callable[[str], type[Adapter]], sums: Task, make_bench: Any, fit_on: Any
) -> None:
    asked: list[str] = []

    def large(prompt: Prompt) -> str:
        asked.append(prompt.messages[-1].content)
        return "large"

    small = ScriptedModel(
        lambda prompt: "small", "small", confidence=lambda prompt: 0.2 if "40" in prompt.messages[-1].content else 0.9
    )
    sure = fit_on(make_bench(sums, small), folder="small").system
    adapter = third_party("cascade").model_validate({"small": "sure", "threshold": 0.5})
    bench = make_bench(sums, ScriptedModel(large, "large"))
    outputs = fit_on(bench, adapter, folder="cascade", systems={"sure": sure}.__getitem__).system.answer(sums.test)
    assert [output.text for output in outputs] == ["small"] * 4 + ["large"] * 2
    assert len(asked) == 2
    assert all("40" in question for question in asked)
    assert [output.usage.calls for output in outputs] == [1, 1, 1, 1, 2, 2]


def test_a_cascade_is_fitted_after_the_strategy_it_uses(third_party: Callable[[str], type[Adapter]]) -> None:
    cascade = Strategy("both", (NamedAdapter("cascade", third_party("cascade").model_validate({"small": "plain"})),))
    assert [strategy.name for strategy in in_order_of_use([cascade, Strategy("plain", ())])] == ["plain", "both"]


def test_third_party_adapters_pass_the_shipped_contract(
    third_party: Callable[[str], type[Adapter]], sums: Task, make_bench: Any, fit_on: Any, tmp_path: Path
) -> None:
    model = ScriptedModel(calls_a_tool, confidence=lambda prompt: 0.4)
    check_adapter(third_party("tool_using")(), sums, model, tmp_path / "tool")
    plain = fit_on(make_bench(sums, model)).system
    adapter = third_party("cascade").model_validate({"small": "plain"})
    check_adapter(adapter, sums, model, tmp_path / "cascade", systems={"plain": plain})


def test_an_unknown_adapter_is_named_with_the_nearest_installed(third_party: Callable[[str], type[Adapter]]) -> None:
    with pytest.raises(RecipeError, match=r"unknown adapter 'casade'.*did you mean 'cascade'.*tool_using"):
        third_party("casade")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:Thing", "does not load"),
        ("cascade:NoSuchClass", "does not load"),
        ("cascade:Cascade", "is no subclass of toolkit.Adapter"),
    ],
)
def test_an_entry_point_that_gives_no_adapter_is_refused(install: Install, value: str, reason: str) -> None:
    install(broken=value)
    with pytest.raises(RecipeError, match=f"adapter 'broken' .* {reason}"):
        installed_adapters()


def test_two_packages_cannot_take_the_same_name(install: Install) -> None:
    install("one", mine="cascade:CascadeAdapter")
    install("two", mine="tool_using:ToolUsingAdapter")
    with pytest.raises(RecipeError, match="two installed packages name an adapter 'mine'"):
        installed_adapters()
