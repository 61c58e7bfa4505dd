"""How much of the machine's rate of float32 products the whole forward reaches."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from offramp.models.base import PretrainedModel
from offramp.nn.prepared import PreparedLinear
from offramp.runner.rows import tokens_at_once
from offramp.runner.run import Runner
from offramp.text.tokenizer import Encoded
from offramp.training.timing import time_in_turn
from running.setting import Setting

LEAST = 80.0  # per cent
MICROBATCH = tokens_at_once(torch.device("cpu"))  # the runner's own


@dataclass(frozen=True)
class Shape:
    """A model's width, its perceptron's, and its layers."""

    width: int
    middle: int
    layers: int


def rate(setting: Setting) -> None:
    """Floating-point operations a second of the plain forward, of those of bare products."""
    setting.report.begin("rate", "the plain forward's float32 products")
    model, rows = setting.classifier.model, setting.rows
    shape = Shape(
        model.config.hidden_size,
        model.config.intermediate_size,
        model.config.num_hidden_layers,
    )
    tokens = sum(len(row.ids) for row in rows)
    bare, bare_work = bare_products(shape, tokens)
    work = useful_work(shape, rows)
    counted = counted_work(model, rows)
    runner = Runner(model, exits=False)
    seconds = time_in_turn({"forward": lambda: runner.run(rows), **bare}, setting.options.rounds)
    rates = {
        name: (work if name == "forward" else bare_work) / statistics.median(times) / 1e9
        for name, times in seconds.items()
    }
    fastest = max(bare, key=rates.__getitem__)
    pairs = zip(seconds["forward"], seconds[fastest], strict=True)
    shares = [100 * (work / one) / (bare_work / other) for one, other in pairs]
    setting.report.figure(
        "of the rate of the faster bare products",
        statistics.median(shares),
        least=LEAST,
        unit="%",
        more=f"[{min(shares):.1f}, {max(shares):.1f}]",
        digits=1,
    )
    for name, found in rates.items():
        print(f"    ({name}: {found:.1f} GFLOP/s)")
    print(f"    (torch counts {counted / work:.3f} of these operations in the forward)")


def useful_work(shape: Shape, rows: Sequence[Encoded]) -> float:
    """Operations of the linear layers and of attention's two products, padding not counted.

    The last layer makes keys and values of all tokens, and the rest for a row's first token.
    """
    lengths = [len(row.ids) for row in rows]
    tokens, width = sum(lengths), shape.width
    a_token = 2 * (4 * width * width + 2 * width * shape.middle)
    whole = tokens * a_token + 4 * width * sum(length * length for length in lengths)
    keys_and_values = 2 * 2 * width * width
    rest = a_token - keys_and_values
    last = tokens * keys_and_values + len(rows) * rest + 4 * width * tokens
    return float((shape.layers - 1) * whole + last)


def counted_work(model: PretrainedModel, rows: Sequence[Encoded]) -> float:
    """What torch's own counter sees; it knows torch's own operators, and counts padding."""
    counter = FlopCounterMode(display=False)
    with counter:
        Runner(model, exits=False, prepare=False).run(rows)
    return float(counter.get_total_flops())


def bare_products(shape: Shape, tokens: int) -> tuple[dict[str, Callable[[], object]], float]:
    """Calls with the products of as many microbatches as the forward has, and their operations.

    In two ways: torch's `mm`, and oneDNN's with the weights laid out for it, as the forward's are.
    """
    width, middle = shape.width, shape.middle
    sides = [(width, width)] * 4 + [(width, middle), (middle, width)]
    inputs = {inside: torch.randn(MICROBATCH, inside) for inside in {width, middle}}
    linears = [
        nn.Linear(inside, outside, bias=False)
        for _ in range(shape.layers)
        for inside, outside in sides
    ]
    laid_out = [PreparedLinear(linear) for linear in linears]
    results = {outside: torch.empty(MICROBATCH, outside) for outside in {width, middle}}
    times = max(1, round(tokens / MICROBATCH))

    @torch.inference_mode()
    def plain() -> None:
        for _ in range(times):
            for linear in linears:
                out = results[linear.out_features]
                torch.mm(inputs[linear.in_features], linear.weight.T, out=out)

    @torch.inference_mode()
    def prepacked() -> None:
        for _ in range(times):
            for linear in laid_out:
                linear(inputs[linear.in_features])

    a_token = 2 * (4 * width * width + 2 * width * middle)
    work = float(times * MICROBATCH * shape.layers * a_token)
    return {"torch.mm": plain, "oneDNN, weights laid out": prepacked}, work
