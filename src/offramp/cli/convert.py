"""`offramp convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from offramp.cli.common import reading_options


@click.command(epilog="Example: offramp convert ernie-saved-by-paddle ernie --to hf")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["hf", "paddle", "research", "pabee"]),
    default="hf",
    show_default=True,
    help="hf: transformers'; paddle: PaddleNLP's; research: DeeBERT's; pabee: PABEE's.",
)
@click.option("--max-shard-size", help='Files of at most so much, such as "5GB".')
@reading_options
def convert(
    source: Path,
    target: Path,
    to: str,
    max_shard_size: str | None,
    **options: Any,
) -> None:
    """Write the model in the directory SOURCE to the directory TARGET in another format.

    SOURCE may be transformers', PaddleNLP's (BERT, ERNIE, RoBERTa, ALBERT), or the research code's
    (DeeBERT, PABEE). Numbers are moved and never changed; torch is not needed.
    """
    from offramp.models.converting import convert as write

    click.echo(write(source, target, to, max_shard_size=max_shard_size, **options))
