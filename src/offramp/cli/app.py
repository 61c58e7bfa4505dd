"""The command group."""

from __future__ import annotations

import rich_click as click

import offramp
from offramp.cli.bench import bench
from offramp.cli.cache import cache
from offramp.cli.calibrate import calibrate
from offramp.cli.convert import convert
from offramp.cli.demo import demo
from offramp.cli.embed import embed
from offramp.cli.evaluate import evaluate
from offramp.cli.inspect import inspect
from offramp.cli.predict import predict
from offramp.cli.pull import pull
from offramp.cli.push import push
from offramp.cli.report import report
from offramp.cli.rerank import rerank
from offramp.cli.train import train
from offramp.cli.verify import verify


@click.group(
    epilog="Example: offramp train --data train.tsv --output sentiment",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(offramp.__version__, package_name="offramp")
def app() -> None:
    """Transformer encoders whose inputs leave as soon as the answer is known."""


COMMANDS = (
    train,
    evaluate,
    calibrate,
    report,
    predict,
    embed,
    rerank,
    bench,
    demo,
    inspect,
    convert,
    verify,
    push,
    pull,
    cache,
)
for command in COMMANDS:
    app.add_command(command)
