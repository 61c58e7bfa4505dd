"""`offramp inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click
from rich.markup import escape
from rich.table import Table as Grid

from offramp.cli.common import legacy_options, report_console


@click.command(epilog="Example: offramp inspect bert-base-uncased/ --tensors")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="A line for each tensor.")
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object.")
@legacy_options
def inspect(
    source: Path, tensors: bool, as_json: bool, legacy_pickle: bool, uint16_is_bfloat16: bool
) -> None:
    """Say what SOURCE holds: a model's directory, or one file of weights.

    Whose names its tensors have, how many parameters of which type, its exits, its files. Headers
    alone are read, torch is not needed, and nothing in a file is executed.
    """
    from offramp.models.inspecting import inspect as look

    found = look(source, allow_legacy_pickle=legacy_pickle, uint16_is_bfloat16=uint16_is_bfloat16)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    console = report_console()
    if not console.is_terminal:
        console.width = 200  # a tensor's two names on one line
    facts = Grid.grid(padding=(0, 2))
    facts.add_row("model", escape(", ".join(found.architectures)) or "-")
    facts.add_row("family", escape(found.model_type or "config.json does not say"))
    facts.add_row("names", found.dialect)
    facts.add_row("parameters", f"{found.parameters:,} in {len(found.tensors)} tensors")
    facts.add_row("types", ", ".join(f"{kind} {n:,}" for kind, n in found.dtypes.items()))
    for name, value in found.settings.items():
        facts.add_row(name, escape(str(value)[:40]))
    exits = found.exits
    facts.add_row("exits", "none" if exits is None else escape(f"after {exits.get('depths')}"))
    for name, size in found.files.items():
        facts.add_row(escape(name), f"{size:,} bytes")
    console.print(facts)
    if tensors:
        grid = Grid()
        for heading in ("tensor", "type", "shape", "offramp's name"):
            grid.add_column(heading, overflow="fold")  # in a narrow terminal nothing is hidden
        for tensor in found.tensors:
            own = "" if tensor.own_name == tensor.name else tensor.own_name
            grid.add_row(escape(tensor.name), tensor.dtype, str(list(tensor.shape)), escape(own))
        console.print(grid)
