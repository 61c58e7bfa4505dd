"""Speeds: against the other engines, against the layers saved, and of exits that nobody takes."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

import offramp
from offramp.bench.comparing import EXITS, INT8, PLAIN
from offramp.exits.attach import add_exits
from offramp.models.base import PretrainedModel
from offramp.runner.run import Runner
from offramp.runner.sweep import every_exit
from offramp.text.tokenizer import Encoded
from offramp.training.metrics import paired_difference
from offramp.training.timing import speed, time_in_turn
from running.figures import Report
from running.scripted import CountsDoubt, InDoubt, Scripted
from running.setting import CT2, CT2_INT8, IN_FILE_ORDER, ONNX, SORTED, Setting, spread
from sst2 import NEVER, cost_of_exits, dev_file, layers_saved

PLAIN_BARS = {IN_FILE_ORDER: 1.8, SORTED: 1.05, ONNX: 1.05, CT2: 1.0}
EXITS_BARS = {IN_FILE_ORDER: 5.0, SORTED: 2.7, CT2_INT8: 1.5}
INT8_BAR = 2.0  # against CTranslate2 int8
MOST_POINTS = 0.5
RATIO_BARS = {"1": 0.95, "512": 1.0, "all": 1.0}
PEEK_BAR, PEEK_TOKENS = 1.05, 64
PAIRS = 20
FEW = (1, 8)  # rows of a call
COST_BARS = (1.02, 1.05)


def plain(setting: Setting) -> None:
    """The model without exits against every engine that computes in float32."""
    setting.report.begin("plain", "the model without exits, times as fast as")
    found = setting.compared(
        setting.directories[0], setting.classifier.model, setting.rows, *PLAIN_BARS
    )
    for line in found.lines:
        if line.engine in PLAIN_BARS:
            setting.report.ratio(line.engine, line.slower[PLAIN], PLAIN_BARS[line.engine])


def exits(setting: Setting) -> None:
    """With exits, in float32 and int8: points lost on all test rows, speeds; means of the seeds."""
    report, seeds = setting.report, len(setting.directories)
    report.begin("exits", f"with exits, mean of {seeds} seeds")
    lost: dict[str, list[torch.Tensor]] = {EXITS: [], INT8: []}
    speeds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for directory in setting.directories:
        classifier = offramp.load(directory, task="classify")
        int8 = classifier.prepared(int8=True)
        offramp.recalibrate(int8, offramp.read_table(dev_file(setting.options)))
        rows, labels_R = setting.test(classifier)
        full = Runner(classifier.model, exits=False).run(rows)
        said = []
        for way, model in ((EXITS, classifier.model), (INT8, int8.model)):
            results = Runner(model).run(rows)
            hits_R, own_R = (r.logits_RC.argmax(-1) == labels_R for r in (full, results))
            lost[way].append((hits_R.int() - own_R.int()).double())
            percent = lost[way][-1].mean().item() * 100
            said.append(f"{way}: {percent:.2f} points lost at {results.mean_layers:.2f} layers")
        found = setting.compared(
            directory,
            classifier.model,
            spread(rows, setting.options.rows),
            *EXITS_BARS,
            int8=int8.model,
        )
        for line in found.lines:
            if line.engine in EXITS_BARS:
                for way, ratio in line.slower.items():
                    speeds[way, line.engine].append(ratio.median)
                    said.append(f"{way} / {line.engine} {ratio.median:.2f}x")
        print(f"  {directory.name}: {'; '.join(said)}", flush=True)
    for way in (EXITS, INT8):
        lost_R = torch.stack(lost[way]).mean(0)
        points, low, high = paired_difference(lost_R, torch.zeros_like(lost_R))
        interval = f"[{low * 100:.2f}, {high * 100:.2f}]"
        report.figure(f"{way}: points lost", points * 100, most=MOST_POINTS, more=interval)
    bars = {(EXITS, name): bar for name, bar in EXITS_BARS.items()} | {(INT8, CT2_INT8): INT8_BAR}
    for (way, name), bar in bars.items():
        if speeds[way, name]:
            mean = statistics.mean(speeds[way, name])
            report.figure(f"{way} / {name}", mean, least=bar, unit="x")


def ratio(setting: Setting) -> None:
    """Wall clock saved, of the layers saved."""
    setting.report.begin("ratio", "speed-up over the plain model / layers saved")
    model, rounds = setting.classifier.model, setting.options.rounds
    layers_saved_in_time(setting.report, model, setting.rows, rounds)
    first_token_ramps(setting)


def layers_saved_in_time(
    report: Report, model: PretrainedModel, rows: Sequence[Encoded], rounds: int
) -> None:
    """At batch 1 (every eighth row), in windows of 512, and in one window of all rows.

    Of fewer than 1,024 rows, which are hardly more than such a window, in one of all.

    The model is prepared by hand: whoever asks for one row at a time would not have it checked for
    changes each time.
    """
    model = offramp.prepare(model)
    tokens = sum(len(row.ids) for row in rows)
    cases = {"1": (1, rows[::8]), "512": (512, rows), "all": (len(rows), rows)}
    if len(rows) < 2 * 512:  # it would be the same window twice
        del cases["512"]
    for name, (window, some) in cases.items():
        report_ratio(
            report,
            f"windows of {name}",
            Runner(model, window_rows=window, window_tokens=tokens),
            Runner(model, exits=False, window_rows=window, window_tokens=tokens),
            some,
            rounds,
            RATIO_BARS[name],
        )


def first_token_ramps(setting: Setting) -> None:
    """Random ramps that read the first token, on long rows, left where the trained model leaves."""
    model = offramp.load(setting.directories[0], task="classify").model
    rows = long_rows(setting.rows)
    layers_R = Runner(model).run(setting.rows).exit_layers_R
    picked_R = torch.randint(len(layers_R), (len(rows),), generator=seeded())
    del model.exits
    add_exits(model, pooler="first").eval()
    script = Scripted(every_exit(model, rows), layers_R[picked_R])
    tokens = sum(len(row.ids) for row in rows)
    report_ratio(
        setting.report,
        f"first-token ramps, rows of {PEEK_TOKENS} tokens or more",
        Runner(model, criterion=script, window_tokens=tokens),
        Runner(model, exits=False, window_tokens=tokens),
        rows,
        setting.options.rounds,
        PEEK_BAR,
    )


def report_ratio(
    report: Report,
    name: str,
    with_exits: Runner,
    without: Runner,
    rows: Sequence[Encoded],
    rounds: int,
    bar: float,
) -> None:
    """The speed-up over the plain model, divided by the layers saved: by rows, and by tokens."""
    results = with_exits.run(rows)
    n_layers = without.run(rows[:1]).mean_layers
    by_rows, by_tokens = layers_saved(results, rows, n_layers)
    size = 1 if name.endswith("of 1") else len(rows)
    calls = {
        "exits": in_calls(with_exits, rows, size),
        "plain": in_calls(without, rows, size),
    }
    seconds = time_in_turn(calls, rounds)
    saved = speed(seconds["exits"], seconds["plain"])
    more = f"[{saved.low / by_rows:.2f}, {saved.high / by_rows:.2f}]"
    report.figure(f"{name}, by rows", saved.median / by_rows, least=bar, more=more)
    report.figure(f"{name}, by tokens", saved.median / by_tokens)
    print(
        f"    ({saved.median:.2f}x as fast; {by_rows:.2f}x fewer layers by rows, {by_tokens:.2f}x "
        f"by tokens; {len(rows)} rows)"
    )


def never(setting: Setting) -> None:
    """Exits that no row takes: in windows, and in calls of a few rows."""
    setting.report.begin("never", f"rows that never leave, {PAIRS} alternating pairs")
    model, rows = setting.classifier.model, spread(setting.rows, 600)
    never_leaves(setting.report, model, rows)
    ready = offramp.prepare(model)
    exits, plain = Runner(ready, criterion=NEVER), Runner(ready, exits=False)
    for few in FEW:
        some = rows[: 25 * few]
        calls = {"exits": in_calls(exits, some, few), "plain": in_calls(plain, some, few)}
        seconds = time_in_turn(calls, PAIRS)
        cost = speed(seconds["plain"], seconds["exits"])
        setting.report.figure(
            f"calls of {few}: median time", cost.median, most=COST_BARS[0], digits=3
        )


def in_calls(runner: Runner, rows: Sequence[Encoded], size: int) -> Callable[[], object]:
    """All rows, so many in a call."""
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return lambda: [runner.run(part) for part in parts]


def never_leaves(report: Report, model: PretrainedModel, rows: Sequence[Encoded]) -> None:
    """Their time against the plain model: each side of a pair is the best of three runs."""
    cost = cost_of_exits(model, rows, PAIRS, 3)
    report.figure("median time of the plain model's", cost.median, most=COST_BARS[0], digits=3)
    report.figure("upper end of its 95% interval", cost.high, most=COST_BARS[1], digits=3)


def doubt(setting: Setting) -> None:
    """The worst that rows can do: none leaves, and each has to be decided again at each exit.

    Of the trained model, and of one whose random ramps read first tokens, with peeks or without.
    """
    setting.report.begin("doubt", f"rows in doubt at every exit, {PAIRS} alternating pairs")
    rows = spread(setting.rows, 600)
    first = offramp.load(setting.directories[0], task="classify").model
    del first.exits
    add_exits(first, pooler="first").eval()
    for pooler, model in (("trained", setting.classifier.model), ("first-token", first)):
        for criterion in (InDoubt(), CountsDoubt()):
            cost = cost_of_exits(model, rows, PAIRS, 3, criterion)
            setting.report.figure(
                f"{pooler} ramps, {criterion.name}: of the plain model's time",
                cost.median,
                most=COST_BARS[1],
                digits=3,
            )


def long_rows(rows: Sequence[Encoded]) -> list[Encoded]:
    """Texts in a row, joined until they have `PEEK_TOKENS` tokens; the first's start is kept."""
    made: list[Encoded] = []
    ids: list[int] = []
    for row in rows:
        ids = [*ids[:-1], *row.ids.tolist()[1 if ids else 0 :]]
        if len(ids) >= PEEK_TOKENS:
            whole = torch.tensor(ids[:256]).numpy()
            made.append(Encoded(whole, whole * 0))
            ids = []
    return made


def seeded() -> torch.Generator:
    """The same draws in every run."""
    return torch.Generator().manual_seed(0)
