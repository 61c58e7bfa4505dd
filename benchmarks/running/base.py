"""The table's first rows for a BERT-base of random weights, left where the trained model leaves."""

from __future__ import annotations

import torch
from torch import Tensor

import offramp
from offramp.bench.comparing import EXITS, PLAIN
from offramp.exits.container import exits_of
from offramp.models.base import PretrainedModel
from offramp.runner.run import Runner
from offramp.runner.sweep import every_exit
from running.scripted import Scripted
from running.setting import Setting, spread
from running.speeds import (
    EXITS_BARS,
    PLAIN_BARS,
    layers_saved_in_time,
    never_leaves,
    seeded,
)


def base(setting: Setting) -> None:
    """Against the other engines, of the layers saved, and exits that nobody takes."""
    report = setting.report
    rows = spread(setting.rows, setting.options.base_rows)
    report.begin("base", f"BERT-base of random weights, {len(rows)} rows; times as fast as")
    torch.manual_seed(0)
    model = offramp.BertForSequenceClassification(offramp.BertConfig()).eval()
    offramp.add_exits(model)
    directory = setting.options.runs / "bert-base-random"
    model.save_pretrained(directory)
    layers_R = Runner(setting.classifier.model).run(rows).exit_layers_R
    exits_of(model).criterion = Scripted(every_exit(model, rows), _scaled(layers_R, model))
    peers = {*PLAIN_BARS, *EXITS_BARS}
    found = setting.compared(directory, model, rows, *sorted(peers))
    for way, bars in ((PLAIN, PLAIN_BARS), (EXITS, EXITS_BARS)):
        for line in found.lines:
            if line.engine in bars:
                report.ratio(f"{way}: {line.engine}", line.slower[way], bars[line.engine])
    print(f"    ({found.line(EXITS).mean_layers:.2f} layers a row)")
    layers_saved_in_time(report, model, rows, setting.options.rounds)
    never_leaves(report, model, rows[: len(rows) // 4])


def _scaled(layers_R: Tensor, model: PretrainedModel) -> Tensor:
    """Each row's depth in a model of 6 layers, as one in 12: layer 2 is layer 3 or 4, by a draw."""
    n_layers: int = model.config.num_hidden_layers
    share = n_layers / 6
    draws_R = torch.rand(len(layers_R), generator=seeded())
    return ((layers_R - 1 + draws_R) * share).ceil().clamp(1, n_layers).long()
