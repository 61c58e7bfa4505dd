"""`offramp pull`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click


@click.command(epilog="Example: offramp pull owner/sentiment --revision v2")
@click.argument("repo_id")
@click.option("--revision", help="A branch, a tag or a commit.  [default: main]")
@click.option("--subfolder", help="A folder in the repository.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="In place of HF_HUB_CACHE.")
@click.option("--force", is_flag=True, help="Fetch again what is there.")
def pull(
    repo_id: str,
    revision: str | None,
    subfolder: str | None,
    cache_dir: Path | None,
    force: bool,
) -> None:
    """Fetch the model REPO_ID (owner/name, owner/name@revision, or a built-in name).

    What is needed to open it goes to the cache of huggingface_hub, verified; its directory there is
    printed.
    """
    from offramp.hub.names import Request
    from offramp.models.builtin import all_sources
    from offramp.models.names import locate, whole_model

    sources = {name: found.hub_id for name, found in all_sources().items() if found.hub_id}
    request = Request(revision, subfolder, cache_dir, force_download=force)
    name, _, behind = repo_id.partition("@")
    known = sources.get(name, name) + (f"@{behind}" if behind else "")
    click.echo(locate(known, request, whole_model, {}, hub_only=True).directory)
