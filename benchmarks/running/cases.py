"""Random batches, windows, orders, criteria and models: always the answers that rows have alone."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import offramp
from offramp.exits.attach import add_exits
from offramp.exits.container import exits_of
from offramp.exits.criteria import (
    ConfidentPatience,
    Criterion,
    Entropy,
    Margin,
    Patience,
    logits_entropy,
)
from offramp.models.base import PretrainedModel
from offramp.runner.run import Results, Runner
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.tokenizer import Encoded
from running.setting import Setting, spread

POOL = 400  # different rows
WAYS = ("trained", "trained, int8", "first", "first, int8", "last", "attention")
"""The trained model, and ones whose ramps are random and read the token or tokens that it says."""
ROWS = (1, 2, 3, 5, 8, 13, 24, 40)
WINDOW_ROWS = (1, 2, 7, 16, 64, 4096)
WINDOW_TOKENS = (100, 1000, 65_536)
MICROBATCH = (1, 64, 256, 1024, 4096)
GROWTH = 1.5
SCALE = 2.0  # of random ramps' classifiers, so that rows leave everywhere
EVERY = 500  # cases from one line of progress to the next


@dataclass(frozen=True)
class Case:
    """Which model, which rows in which order, the runner's limits, and the criterion."""

    way: str
    rows: list[int]
    window_rows: int
    window_tokens: int
    microbatch_tokens: int
    criterion: Criterion

    def runner(self, model: PretrainedModel) -> Runner:
        """Its runner."""
        return Runner(
            model,
            criterion=self.criterion,
            window_rows=self.window_rows,
            window_tokens=self.window_tokens,
            microbatch_tokens=self.microbatch_tokens,
        )


def cases(setting: Setting) -> None:
    """Each case is a function of its number; `--first-case` goes on where a run was stopped."""
    first, count = setting.options.first_case, setting.options.cases
    setting.report.begin("cases", f"random cases {first} to {count - 1}")
    rows = spread(setting.rows, POOL)
    models = {way: _model(setting.directories[0], way) for way in WAYS}
    each = {way: _alone(model, rows) for way, model in models.items()}
    wrong = near = answered = 0
    began = time.perf_counter()
    for number in range(first, count):
        case = _case(number, each)
        model, alone = models[case.way], each[case.way]
        picked = [rows[i] for i in case.rows]
        found = case.runner(model).run(picked)
        differ_R = _differ(found, _picked(alone.apply(case.criterion), case.rows))
        # `alone` has each row's answers at every exit from one pass. Whoever lies within rounding
        # of the threshold is asked again as a user would ask: the runner with the row alone.
        doubtful = [int(i) for i in torch.nonzero(differ_R)]
        check = {*doubtful, number % len(picked)}
        near += len(doubtful)
        answered += len(picked)
        for place in check:
            one = Runner(model, criterion=case.criterion).run([picked[place]])
            if bool(_differ(_picked(found, [place]), one)):
                wrong += 1
                print(f"  case {number}, row {case.rows[place]} of {case}: differs from itself")
        if (number + 1) % EVERY == 0:
            print(f"    ({number + 1} cases, {time.perf_counter() - began:.0f} s)", flush=True)
    print(f"    ({answered} answers; {near} of rows within rounding of the threshold)")
    setting.report.figure("answers that are not the row's own", wrong, most=0, digits=0)


def _model(directory: Path, way: str) -> PretrainedModel:
    """One of `WAYS`."""
    model = offramp.load(directory, task="classify").model
    pooler, _, int8 = way.partition(", ")
    if pooler != "trained":
        del model.exits
        with torch.random.fork_rng():
            torch.manual_seed(0)
            add_exits(model, pooler=pooler).eval()
            for depth in exits_of(model).depths:
                torch.nn.init.normal_(exits_of(model).ramp(depth).classifier.weight, std=SCALE)
    return offramp.prepare(model, int8=bool(int8))


def _case(number: int, each: Mapping[str, EveryExit]) -> Case:
    picker = random.Random(number)
    way = picker.choice(WAYS)
    alone = each[way]
    n_rows = alone.logits_ERC.shape[1]
    picked = [picker.randrange(n_rows) for _ in range(picker.choice(ROWS))]
    window_rows, window_tokens, microbatch_tokens = (
        picker.choice(some) for some in (WINDOW_ROWS, WINDOW_TOKENS, MICROBATCH)
    )
    exit_ = picker.randrange(len(alone.depths) - 1)
    logits_C = alone.logits_ERC[exit_, picker.choice(picked)]
    exactly = picker.random() < 0.5  # where one of the rows lies at one of the exits
    entropy = logits_entropy(logits_C[None]).item() if exactly else picker.uniform(0.0, 0.6)
    margin = (logits_C.double().softmax(-1).amax() * 2 - 1).item()
    criteria: list[Criterion] = [
        Entropy(entropy / GROWTH ** (alone.depths[exit_] - 1), GROWTH),
        Margin(margin if exactly else picker.random()),
        Patience(picker.randrange(1, 4)),
        ConfidentPatience(picker.randrange(1, 3), entropy),
        Entropy(entropy) | Patience(2),
    ]
    criterion = criteria[picker.choice((0, 0, 0, 1, 2, 3, 4))]
    return Case(way, picked, window_rows, window_tokens, microbatch_tokens, criterion)


def _alone(model: PretrainedModel, rows: list[Encoded]) -> EveryExit:
    """Every exit's answers of each row alone."""
    each = [every_exit(model, [row]) for row in rows]
    return EveryExit(each[0].depths, torch.cat([one.logits_ERC for one in each], 1))


def _picked(results: Results, rows: list[int]) -> Results:
    return Results(results.logits_RC[rows], results.exit_layers_R[rows], results.forced_R[rows])


def _differ(one: Results, other: Results) -> Tensor:
    """Which rows have another label or exit layer, [R]."""
    labels_R = one.logits_RC.argmax(-1) != other.logits_RC.argmax(-1)
    return labels_R | (one.exit_layers_R != other.exit_layers_R)
