"""Write docs/commands.md and docs/methods.md from the code; with --check, exit with status 1 where they are stale."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from robustq.cli.listings import default_of, is_required
from robustq.cli.main import app
from robustq.core.catalogue import catalogue
from robustq.core.registry import COMPRESSORS, kinds

HERE = Path(__file__).parent
HEAD = "<!-- Written by `python docs/generate.py`; edit the code, not this file. -->\n"


def commands() -> str:
    """Every command with its usage, example and parameters."""
    root: Any = typer.main.get_command(app)
    parts = [
        HEAD,
        "# Commands\n",
        f"`robustq [--version [--verbose]] COMMAND ...`: {lower(root.help)}\n",
        "Results for people go to standard error; standard output carries JSON, a model or a listing. "
        "Exit statuses and the report: [report.md](report.md).\n",
    ]
    for name, command in root.commands.items():
        if name != "bench":  # the same function
            parts += command_lines(name, command)
    return "\n".join(parts)


def command_lines(name: str, command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join(["robustq", name, *(place(p) for p in arguments)])
    yield f"## {name}\n"
    yield f"`{usage} [OPTIONS]`\n" + (" Short: `robustq bench`.\n" if name == "benchmark" else "")
    yield " ".join(command.help.split()) + "\n"
    yield f"Example: `{command.epilog.removeprefix('Example: ')}`\n"
    yield "| | |\n|---|---|"
    for parameter in arguments:
        yield f"| `{cell(parameter.metavar)}` | {cell(parameter.help or '')} |"
    for parameter in options:
        flags = ", ".join(f"`{flag}`" for flag in parameter.opts)
        value = f" `{cell(parameter.metavar)}`" if parameter.metavar else ""
        yield f"| {flags}{value} | {cell(parameter.help or '')} |"
    yield ""


def place(argument: Any) -> str:
    """`MODEL`, `[KIND]` or `[MODEL]...`, as in the usage line of --help."""
    name = argument.metavar if argument.required else f"[{argument.metavar}]"
    return name + ("..." if argument.nargs == -1 else "")


def methods() -> str:
    """Every method with its options and source, one section a kind."""
    compressors = ", ".join(COMPRESSORS)
    parts = [
        HEAD,
        "# Methods\n",
        f"A compressor ({compressors}) is named by `--method` or `--compress NAME:key=value,...`, "
        "an attack by `--attack`, an objective by `--objective`; the values are written as the defaults here are. "
        "`robustq methods [KIND]` prints the same list.\n",
    ]
    for kind in kinds():
        parts.append(f"## {kind}\n")
        for entry in catalogue(kind):
            parts += method_lines(entry)
    return "\n".join(parts)


def method_lines(entry: dict[str, Any]) -> Iterator[str]:
    yield f"### {entry['name']}\n"
    yield f"{entry['summary']}\n"
    if entry["source"]:
        yield f"Source: {entry['source']}\n"
    if not entry["options"]:
        return
    yield "| option | default | type | meaning |\n|---|---|---|---|"
    for option in entry["options"]:
        default = "required" if is_required(option) else f"`{default_of(option)}`"
        meaning = option["help"] + (f" ({option['unit']})" if option["unit"] else "")
        meaning += f"; one of {', '.join(str(choice) for choice in option['choices'])}" if option["choices"] else ""
        yield f"| `{option['name']}` | {default} | {cell(option['type'])} | {cell(meaning)} |"
    yield ""


def cell(text: str) -> str:
    """Text for a table of Markdown."""
    return " ".join(text.split()).replace("|", "\\|")


def lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def main(check: bool) -> int:
    """The exit status: 1 where `check` finds a stale file."""
    stale = []
    for name, text in (("commands.md", commands()), ("methods.md", methods())):
        path, text = HERE / name, text.rstrip() + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'stale' if check else 'written'}: {', '.join(stale)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
