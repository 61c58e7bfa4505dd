"""`offramp inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rich_click as click
from rich.markup import escape
from rich.table import Table as Grid

from offramp.cli.common import reading_options, report_console
from offramp.errors import shown


@click.command(epilog="Example: offramp inspect bert-base-uncased/ --tensors")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="A line for each tensor.")
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object.")
@reading_options
def inspect(source: Path, tensors: bool, as_json: bool, **options: Any) -> None:
    """Say what SOURCE holds: a model's directory, or one file of weights.

    Whose names its tensors have, how many parameters of which type, its exits, its files. Headers
    alone are read, torch is not needed, and nothing in a file is executed.
    """
    from offramp.models.inspecting import inspect as look

    found = look(source, **options)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    console = report_console()
    if not console.is_terminal:
        console.width = 200  # a tensor's two names on one line
    facts = Grid.grid(padding=(0, 2))
    facts.add_row("model", _text(", ".join(found.architectures)) or "-")
    facts.add_row("family", _text(found.model_type or "config.json does not say"))
    facts.add_row("names", found.dialect)
    facts.add_row("parameters", f"{found.parameters:,} in {len(found.tensors)} tensors")
    facts.add_row("types", ", ".join(f"{kind} {n:,}" for kind, n in found.dtypes.items()))
    for name, value in found.settings.items():
        facts.add_row(name, _text(value))
    exits = found.exits
    facts.add_row("exits", "none" if exits is None else _text(f"after {exits.get('depths')}"))
    for name, size in found.files.items():
        facts.add_row(_text(name), f"{size:,} bytes")
    console.print(facts)
    if tensors:
        grid = Grid()
        for heading in ("tensor", "type", "shape", "offramp's name"):
            grid.add_column(heading, overflow="fold")  # in a narrow terminal nothing is hidden
        for tensor in found.tensors:
            own = "" if tensor.own_name == tensor.name else tensor.own_name
            grid.add_row(_text(tensor.name), tensor.dtype, str(list(tensor.shape)), _text(own))
        console.print(grid)


def _text(value: object) -> str:
    """A value of a file as it may be shown: no markup, no control characters, not without end."""
    return escape(shown(str(value), 1000))
