"""The `offramp` command; one thin file a subcommand. Nothing here imports torch until it runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

from offramp.backends import requires_backends
from offramp.errors import OfframpError


def main() -> None:
    """Run the command line: exit code 0, or 2 with one clear sentence."""
    with warnings.catch_warnings():
        warnings.showwarning = _in_a_sentence(warnings.showwarning)
        _run()


def _run() -> None:
    try:
        requires_backends("The offramp command", "rich_click")
        from offramp.cli.app import app

        app(prog_name="offramp")
    except OfframpError as error:
        print(f"offramp: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output left; that is its business
        sys.exit(1)


def _in_a_sentence(show: Callable[..., None]) -> Callable[..., None]:
    """`warnings.showwarning` for a terminal: our own are for its user, not for who reads code."""

    def shown(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if category.__module__ == OfframpError.__module__:
            print(f"offramp: warning: {message}", file=sys.stderr)
        else:
            show(message, category, *args, **kwargs)

    return shown
