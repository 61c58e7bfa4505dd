"""`offramp verify`."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click


@click.command(epilog="Example: offramp verify sentiment/")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object.")
def verify(directory: Path, as_json: bool) -> None:
    """Say whether every file of DIRECTORY is as offramp saved it, to the last bit.

    Names what is damaged, missing, or not in the save's manifest. Ends with 1 where something is
    damaged or missing, or where there is no manifest to go by. All files are read; loading looks
    at sizes alone.
    """
    from offramp.storage.verifying import verify as look

    found = look(directory)
    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
    if not found.ok:
        raise SystemExit(1)
