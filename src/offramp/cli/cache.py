"""`offramp cache`: list, verify, prune."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from rich.markup import escape
from rich.table import Table as Grid

from offramp.cli.common import report_console
from offramp.errors import HubError, shown

place = click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="In place of HF_HUB_CACHE."
)


@click.group(epilog="Example: offramp cache verify owner/sentiment")
def cache() -> None:
    """See to the models in huggingface_hub's cache."""


@cache.command(name="list")
@place
def list_models(cache_dir: Path | None) -> None:
    """The models that are in it, and how large they are."""
    from offramp.hub.keeping import kept
    from offramp.hub.settings import cache_directory

    grid = Grid()
    grid.add_column("model", overflow="fold")
    grid.add_column("bytes", justify="right", overflow="fold")
    grid.add_column("commits", justify="right", overflow="fold")
    grid.add_column("revisions", overflow="fold")
    for one in kept(cache_directory(cache_dir)):
        revisions = ", ".join(f"{name} {oid[:8]}" for name, oid in one.revisions.items())
        commits = str(len(one.commits))
        grid.add_row(_text(one.repo_id), f"{one.size:,}", commits, _text(revisions))
    report_console().print(grid)


@cache.command()
@click.argument("repo_id", required=False)
@place
def verify(repo_id: str | None, cache_dir: Path | None) -> None:
    """Read every file, or those of REPO_ID, and compare it with the hash that it is named by."""
    from offramp.hub.keeping import damaged
    from offramp.hub.settings import cache_directory

    looked, bad = 0, []
    for name, path, wrong in damaged(cache_directory(cache_dir), repo_id):
        looked += 1
        if wrong is not None:
            bad.append(path)
            click.echo(f"damaged: {shown(name)}: {path}: {wrong}")
    if repo_id is not None and not looked:
        raise HubError(f"{repo_id} is not in the cache {cache_directory(cache_dir)}.")
    if bad:
        raise HubError(
            f"{len(bad)} of {looked} files are damaged. They are fetched again when the model is "
            "next opened with a network, or now: offramp pull NAME."
        )
    click.echo(f"{looked} files are what they are named by.")


@cache.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@place
def prune(dry_run: bool, cache_dir: Path | None) -> None:
    """Remove what was begun and given up, and files that no commit here has any more."""
    from offramp.hub.keeping import prune as remove
    from offramp.hub.settings import cache_directory

    gone = remove(cache_directory(cache_dir), dry_run=dry_run)
    for name, path, size in gone:
        click.echo(f"{shown(name)}: {path.name} ({size:,} bytes)")
    verb = "would be freed" if dry_run else "freed"
    click.echo(f"{sum(size for _, _, size in gone):,} bytes {verb}.")


def _text(value: str) -> str:
    return escape(shown(value, 1000))
