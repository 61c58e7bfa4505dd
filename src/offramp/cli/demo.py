"""`offramp demo`: the whole job on real weights and real text, in a few minutes."""

from __future__ import annotations

import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import rich_click as click
from rich.table import Table as Grid

from offramp.cli.common import evaluation_grid, progress_bar, report_console
from offramp.cli.stdlib_corpus import AREAS, read_corpus

SENTENCES = (
    "Return the square root of a decimal number, rounded to the context's precision.",
    "Open the archive and extract every member to the directory.",
    "Send the request line and the headers to the HTTP server.",
    "Wait until the lock is released by the other thread.",
    "Set a breakpoint and step through the traceback.",
    "Return the next item, or a default.",
)


@click.command(epilog="Example: offramp demo --output runs/demo")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Keep the model here, and a page about it."
)
@click.option("--epochs", default=3, show_default=True)
@click.option("--seed", default=0, show_default=True)
def demo(output: Path | None, epochs: int, seed: int) -> None:
    """Teach all-MiniLM-L6-v2 which area of Python's library a docstring belongs to.

    Trains on some modules, chooses a threshold on others, reports on a third part; nothing is
    downloaded. Some minutes on two cores.
    """
    import offramp
    from offramp.models.names import model_directory
    from offramp.text.tables import Table

    out, began = report_console(), time.monotonic()
    splits = {
        split: Table(f"{split} docstrings", [text for text, _ in rows], [area for _, area in rows])
        for split, rows in read_corpus().items()
    }
    sizes = ", ".join(f"{len(table)} {split}" for split, table in splits.items())
    out.print(f"Docstrings of Python's standard library in {len(AREAS)} areas: {sizes}.")
    keep = nullcontext(str(output)) if output else tempfile.TemporaryDirectory()
    with keep as directory:
        where = Path(directory) / "model" if output is None else Path(directory)
        page = None if output is None else where / "report.html"
        with progress_bar() as progress:
            classifier, _ = offramp.train(
                model_directory("all-MiniLM-L6-v2"),
                splits["train"],
                where,
                dev=splits["dev"],
                options=offramp.TrainingOptions(
                    epochs=epochs, batch_size=16, seed=seed, max_loss=0.5
                ),
                max_length=64,
                progress=progress,
            )
            report = offramp.report(
                where,
                splits["test"],
                dev=splits["dev"],
                output=page,
                thresholds=(0.05, 0.1, 0.2),
                max_loss=0.5,
                rounds=3,
                timing_rows=150,
                progress=progress,
            )
        evaluation = report.evaluation
        out.print(evaluation_grid(evaluation))
        chosen = evaluation.chosen
        loss, low, high = evaluation.loss
        out.print(
            f"Chosen on dev: {chosen.system}. On test it is "
            f"{chosen.speed['plain'].median:.2f}x as fast as the plain model and loses {loss:.2f} "
            f"points (95% interval {low:.2f} to {high:.2f})."
        )
        grid = Grid(title="Where sentences leave")
        for heading in ("layer", "label", "probability", "sentence"):
            grid.add_column(heading)
        for sentence, prediction in zip(SENTENCES, classifier.predict(SENTENCES), strict=True):
            grid.add_row(
                str(prediction.exit_layer),
                prediction.label,
                f"{prediction.probability:.2f}",
                sentence,
            )
        out.print(grid)
    out.print(f"All of it took {(time.monotonic() - began) / 60:.1f} minutes.")
    if output:
        out.print(
            f'The model is in {output}. Try: offramp predict {output} "your sentence"',
            markup=False,
        )
        out.print(f"Open {page} in a browser: all of this on one page.", markup=False)
