"""`offramp push`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from offramp.errors import OfframpError


@click.command(epilog="Example: offramp push sentiment owner/sentiment --private")
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("repo_id")
@click.option("--private/--public", default=None, help="Of a new repository: who may see it.")
@click.option("--subfolder", help="A folder in the repository.")
@click.option("--message", "commit_message", help="Of the commit.")
@click.option("--revision", help="A branch; made if need be.  [default: main]")
@click.option("--create-pr", is_flag=True, help="A pull request against the branch.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
def push(
    directory: Path,
    repo_id: str,
    private: bool | None,
    subfolder: str | None,
    commit_message: str | None,
    revision: str | None,
    create_pr: bool,
    dry_run: bool,
) -> None:
    """Put the model in DIRECTORY on the hub, as one commit to REPO_ID (owner/name).

    Its configuration, weights and tokenizer go up, and a model card where the repository has none;
    nothing else that lies there. The token is that of `hf auth login`, or of HF_TOKEN.
    """
    from offramp.models.names import whole_model
    from offramp.models.sharing import push_directory

    click.echo(
        push_directory(
            directory,
            repo_id,
            whole_model,
            private=private,
            subfolder=subfolder,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            dry_run=dry_run,
            certificate=_certificate(directory),
        )
    )


def _certificate(directory: Path) -> str | None:
    """What is proved of the exits, where the model can be opened and it holds."""
    config = directory / "config.json"
    try:
        if not config.is_file() or '"certificate"' not in config.read_text(encoding="utf-8"):
            return None
        import offramp

        found: str | None = offramp.load(directory).certificate_in_words()
        return found
    except (OfframpError, OSError, ValueError):
        return None
