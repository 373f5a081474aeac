"""Writes docs/cli.md from the help texts of the commands; with `--check` only says whether it is up to date.

python docs/generate_cli.py
python docs/generate_cli.py --check      exit code 1 if stale
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("cli.md")

INTRODUCTION = """\
<!-- Written by docs/generate_cli.py from the commands' help texts. -->

# The command line
"""

EPILOGUE = """\
## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a defect of ours, with a traceback; or whoever read the output went away |
| 2 | something to put right: a recipe, data, a model, the command itself, memory or disk; one message says what |
| 130 | interrupted; the same command goes on where it stood |

## Variables

| variable | meaning |
|---|---|
| `TOOLKIT_CACHE` | the folder for models and for results that are used again |
| `NO_COLOR` | no colours |
| `COLUMNS` | the width of tables where the output is no terminal (120 if not set) |
"""


def page() -> str:
    """The whole page."""
    from typer.main import get_command

    from toolkit.cli import app

    blocks = [INTRODUCTION, *_command(get_command(app), "toolkit"), EPILOGUE]
    return "\n".join(blocks)


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    written = page()
    if "--check" not in arguments:
        PAGE.write_text(written, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == written:
        return 0
    print(f"{PAGE} is not what the commands say: run `python docs/generate_cli.py`", file=sys.stderr)
    return 1


def _command(command: Any, path: str) -> Iterator[str]:
    """A command's section, then those of the commands below it."""
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option"]
    below = getattr(command, "commands", {})
    usage = [path, *map(_usage, arguments), *(["[OPTIONS]"] if options else []), *(["COMMAND"] if below else [])]
    yield f"## `{path}`\n"
    yield f"    {' '.join(usage)}\n"
    yield from _text(command.help or "")
    rows = [(f"`{item.metavar}`", item.help) for item in arguments] + [(_option(item), item.help) for item in options]
    if rows:
        yield "\n".join(["| | |", "|---|---|", *(f"| {name} | {said} |" for name, said in rows)]) + "\n"
    for name, item in below.items():
        yield from _command(item, f"{path} {name}")


def _text(said: str) -> Iterator[str]:
    """Paragraphs; one marked with a backspace (click's mark for text not to be wrapped) is a heading and its lines."""
    for paragraph in said.split("\n\n"):
        if paragraph.startswith("\b"):
            heading, *lines = paragraph.removeprefix("\b").strip("\n").split("\n")
            yield f"{heading}\n"
            yield "\n".join(f"    {line.strip()}" for line in lines) + "\n"
        else:
            yield " ".join(paragraph.split()) + "\n"


def _usage(argument: Any) -> str:
    name = f"{argument.metavar}..." if argument.nargs == -1 else str(argument.metavar)
    return name if argument.required else f"[{name}]"


def _option(option: Any) -> str:
    metavar = "" if option.metavar is None else f" {option.metavar}"
    return f"`{option.opts[0]}{metavar}`{' (required)' if option.required else ''}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
