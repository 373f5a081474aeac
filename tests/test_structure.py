"""The house stands as the design says: imports go downwards, engines stand alone, files stay short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "toolkit"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("seeds", "store", "meter", "resources", "json_lines"),
    ("statistics", "economics", "tracking"),
    ("tasks",),
    ("models",),
    ("rendering",),
    ("inference",),
    ("prompting", "retrieval", "tuning"),
    ("evaluation",),
    ("strategies",),
    ("testing",),
    ("comparison",),
    ("recipe",),
    ("runs",),
    ("report",),
    ("terminal",),
    ("progress",),
    ("console",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""From the ground up. A package or module of the top level imports only from layers below its own."""

ENGINES = frozenset({"prompting", "retrieval", "tuning"})
BESIDE_THE_TOWER = frozenset({"statistics", "economics"})

UPWARDS: Mapping[tuple[str, str], str] = {
    ("toolkit/runs/run.py", "report"): "the last step of a run writes its page; report reads a run folder only",
}
"""Imports inside a function that go up, with the reason. None may stand at the top of a module."""

LONGEST_LINES = 300
LONG_FILES: Mapping[str, str] = {
    "tests/conftest.py": "what tests of several rooms are built from",
    "tests/evaluation/test_metrics.py": "every metric beside its hand-computed cases",
    "tests/inference/test_parity.py": "one test for each shape of work that is held to the plain path",
    "tests/models/test_adapter_files.py": "one test for each way in which other trainers write adapters",
    "tests/runs/test_bad_input.py": "one test for each kind of bad input that the issue lists",
    "tests/runs/test_export.py": "one run, and one test for each thing that is handed over of it",
    "tests/runs/test_folder.py": "claiming, replacing, forgetting and locking a run folder",
    "tests/runs/test_hosted.py": "one test for each promise about a run over a server",
    "tests/runs/test_resume.py": "one test for each place at which a run can be killed",
    "tests/strategies/test_fitting.py": "one test for each thing a part's key holds",
    "tests/strategies/test_system.py": "answering, fitting to the context and refusals of one class",
    "tests/tasks/test_inline.py": "one test for each key of a task written into a recipe",
    "tests/tasks/test_load.py": "one test for each error of a task folder",
}
"""Files over `LONGEST_LINES`, with the reason."""


@dataclass(frozen=True)
class Import:
    """One import of ours: `file` (from the root) of `importer` imports `module` of the layer unit `imported`."""

    file: str
    line: int
    importer: str
    imported: str
    module: str
    at_top: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.importer} imports {self.module}"


@lru_cache(maxsize=1)
def _imports() -> tuple[Import, ...]:
    """Imports between top-level units of toolkit/, those inside functions and for type checkers too."""
    return tuple(found for path in sorted(PACKAGE.rglob("*.py")) for found in _imports_of(path))


def _imports_of(path: Path) -> Iterator[Import]:
    importer = _unit(path.relative_to(ROOT).with_suffix("").parts)
    if importer == "__init__":  # the public names; they are loaded when asked for
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    deferred = {id(node) for function in ast.walk(tree) if _is_deferred(function) for node in ast.walk(function)}
    for node in ast.walk(tree):
        for module in _modules(node, path):
            parts = tuple(module.split("."))
            imported = _unit(parts)
            if parts[0] == "toolkit" and imported not in ("", importer):
                where = path.relative_to(ROOT).as_posix()
                yield Import(where, node.lineno, importer, imported, module, id(node) not in deferred)  # type: ignore[attr-defined]


def _unit(parts: tuple[str, ...]) -> str:
    """What has a place in `LAYERS`: ("toolkit", "tasks", "load") is of `tasks`."""
    return ".".join(parts[1:2])


def _modules(node: ast.AST, path: Path) -> list[str]:
    """The modules an import statement names; `from toolkit import errors` names `toolkit.errors`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0, f"{path}:{node.lineno}: a relative import; write the whole name"
    if node.module == "toolkit":
        return [f"toolkit.{alias.name}" for alias in node.names if alias.name in _units()]
    return [node.module or ""]


def _is_deferred(node: ast.AST) -> bool:
    """Inside a function, or under `if TYPE_CHECKING`: not run when the module is imported."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


@lru_cache(maxsize=1)
def _units() -> frozenset[str]:
    """The packages and modules of the top level."""
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    return frozenset(modules | {path.parent.name for path in PACKAGE.glob("*/__init__.py")})


def _heights() -> dict[str, int]:
    return {unit: height for height, layer in enumerate(LAYERS) for unit in layer}


def test_every_package_has_its_place_in_the_layers() -> None:
    assert not _units() - set(_heights()), "new packages: give them a layer in LAYERS"


def test_imports_go_only_downwards() -> None:
    heights = _heights()
    upwards = [
        str(found)
        for found in _imports()
        if heights[found.imported] >= heights[found.importer]
        and (found.at_top or (found.file, found.imported) not in UPWARDS)
    ]
    assert not upwards, "\n".join(upwards)


def test_every_excused_upward_import_is_still_there() -> None:
    heights = _heights()
    there = {(found.file, found.imported) for found in _imports() if heights[found.imported] >= heights[found.importer]}
    assert not set(UPWARDS) - there, "no longer needed in UPWARDS"


def test_no_package_imports_another_in_a_circle() -> None:
    below: dict[str, set[str]] = {}
    for found in _imports():
        below.setdefault(found.importer, set()).add(found.imported)
    circles = []

    def visit(unit: str, path: tuple[str, ...]) -> None:
        if unit in path:
            circles.append(" -> ".join((*path[path.index(unit) :], unit)))
        elif unit not in done:
            for imported in sorted(below.get(unit, ())):
                visit(imported, (*path, unit))
            done.add(unit)

    done: set[str] = set()
    for unit in sorted(below):
        visit(unit, ())
    assert not circles, "\n".join(circles)


def test_the_engines_import_nothing_of_each_other() -> None:
    crossing = [str(found) for found in _imports() if {found.importer, found.imported} <= ENGINES]
    assert not crossing, "\n".join(crossing)


def test_statistics_and_economics_import_nothing_of_ours() -> None:
    ours = [str(found) for found in _imports() if found.importer in BESIDE_THE_TOWER]
    assert not ours, "\n".join(ours)


def test_datasets_is_no_package_that_shadows_the_library_of_that_name() -> None:
    assert not list((ROOT / "datasets").rglob("__init__.py"))


def _sources() -> list[Path]:
    places = [ROOT / name for name in ("toolkit", "tests", "benchmarks", "docs", "recipes")]
    return sorted(path for place in places for path in place.rglob("*.py"))


def test_no_file_is_long_without_a_reason() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): _length(path) for path in _sources()}
    long = [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > LONGEST_LINES]
    unexplained = [line for line in long if line.split(":")[0] not in LONG_FILES]
    assert not unexplained, "split them, or give the reason in LONG_FILES:\n" + "\n".join(unexplained)
    stale = [name for name in LONG_FILES if lengths.get(name, 0) <= LONGEST_LINES]
    assert not stale, f"no longer long: {', '.join(stale)}"


def _length(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_nothing_is_left_to_be_done_in_a_comment() -> None:
    marks = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME")) + r")\b")
    texts = [*_sources(), *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.yaml")]
    left = [
        f"{path.relative_to(ROOT).as_posix()}:{number}: {line.strip()}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if marks.search(line)
    ]
    assert not left, "\n".join(left)
