"""The `offramp` command; one thin file a subcommand. Nothing here imports torch until it runs."""

from __future__ import annotations

import sys

from offramp.backends import requires_backends
from offramp.errors import OfframpError


def main() -> None:
    """Run the command line: exit code 0, or 2 with one clear sentence."""
    try:
        requires_backends("The offramp command", "rich_click")
        from offramp.cli.app import app

        app(prog_name="offramp")
    except OfframpError as error:
        print(f"offramp: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output left; that is its business
        sys.exit(1)
