"""The trained models: one directory a set, schedule and seed, and what its exits answer.

The schedules that begin with the model alone share that stage: it is trained once, by `two-stage`,
and the others begin from what that gave, whose body and head are the plain fine-tuned model's.
A model may also be fine-tuned of its first layers alone: what truncation can be at its best.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import offramp
from exiting.scoring import Scored, scored
from exiting.sets import DataSet, Kind, Rows
from offramp.exits.container import task_of
from offramp.exits.criteria.task import REGRESSION, SINGLE_LABEL
from offramp.exits.decisions import Units
from offramp.models.base import PretrainedModel
from offramp.models.names import model_directory
from offramp.runner.rows import Row
from offramp.runner.run import Results
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.tagged import TaggedTable
from offramp.text.tokenizer import Tokenizer
from offramp.training.examples import EncodedRows, examples_of
from offramp.training.tagged import NO_LABEL, TaggedExamples, to_tagged_examples

PRETRAINED = "all-MiniLM-L6-v2"
PLAIN = "two-stage"
"""The schedule whose body and head are the plain fine-tuned model."""

PROBLEMS: dict[Kind, str] = {
    "classification": SINGLE_LABEL,
    "regression": REGRESSION,
    "tokens": SINGLE_LABEL,
}

SECOND_STAGES: dict[str, dict[str, Any]] = {
    "self-distillation": {"schedule": "self-distillation", "freeze_backbone": True},
    "mixed": {"schedule": "joint"},
}
"""By schedule, what is left to do from the plain fine-tuned model on."""


CERTAIN = ("alternating", "self-distillation")
"""The schedules whose exits learn how sure they are, too: BERxiT's own, and one that is cheap."""


@dataclass(frozen=True)
class Answers:
    """What every exit says of R rows, their labels [R], and how many tokens they have [R].

    A tagger's labels are of tokens, [R, L] with `NO_LABEL` where none is asked for.
    """

    exits: EveryExit
    labels_R: Tensor
    tokens_R: Tensor
    kind: Kind = "classification"
    names: Sequence[str] = ()

    @property
    def n_layers(self) -> int:
        return self.exits.depths[-1]

    def scored(self, results: Results) -> Scored:
        """The way that gives these answers."""
        return scored(self.kind, results.logits_RC, self.labels_R, self.names)

    def by_depth(self) -> list[Scored]:
        """What each exit says to all rows, the model's own head last."""
        return [self.scored(self.exits.at(depth)) for depth in self.exits.depths]


@dataclass(frozen=True)
class Model:
    """A model that is trained, or will be when it is first asked for."""

    data: DataSet
    schedule: str
    seed: int
    layers: int | None = None
    """How many of the first, if not all."""
    pooler: str | None = None
    """What the ramps read the tokens with; the library's own if it is not said."""

    @property
    def name(self) -> str:
        """Within its set."""
        layers = "" if self.layers is None else f"{self.layers}-layers-"
        pooler = "" if self.pooler is None else f"{self.pooler}-"
        return f"{layers}{pooler}{self.schedule}-seed{self.seed}"

    @cached_property
    def directory(self) -> Path:
        """Where it is; it is trained now, or a killed run goes on, if it is not there."""
        place = self.data.folder / self.name
        if place.is_dir():
            return place
        start, settings = self._start()
        kind = self.data.recipe.kind
        options = offramp.TrainingOptions(
            epochs=self.data.recipe.epochs,
            seed=self.seed,
            precision=self.data.precision,
            problem_type=PROBLEMS[kind],
            **self.data.recipe.rates,
            **settings,
        )
        began = time.monotonic()
        fit: Any = offramp.train_tagger if kind == "tokens" else offramp.train
        fit(start, self.data.training, place, dev=self.data.dev, options=options, resume=True)
        print(
            f"  trained {self.data.name} {self.name} in {time.monotonic() - began:.0f} s",
            flush=True,
        )
        return place

    def _start(self) -> tuple[Path, dict[str, Any]]:
        """What training begins from, and how it differs from the library's own options."""
        settings: dict[str, Any] = {"certainty": self.schedule in CERTAIN}
        if self.pooler is not None:
            settings["pooler"] = self.pooler
        if self.pooler is not None and self.schedule == PLAIN:  # with the same body as all
            second_stage: dict[str, Any] | None = {"schedule": PLAIN, "freeze_backbone": True}
        else:
            second_stage = SECOND_STAGES.get(self.schedule)
        if second_stage is not None:
            plain = Model(self.data, PLAIN, self.seed)
            return plain.directory, settings | second_stage
        start = Path(model_directory(PRETRAINED))
        if self.layers is not None:
            start = first_layers(start, self.layers, self.data.runs)
        return start, settings | {"schedule": self.schedule}

    @cached_property
    def network(self) -> PretrainedModel:
        network: PretrainedModel = self._served.model
        return network

    @cached_property
    def dev(self) -> Answers:
        return self._answers("dev", self.data.dev)

    @cached_property
    def test(self) -> Answers:
        return self._answers("test", self.data.test)

    def test_rows(self) -> Sequence[Row]:
        return self._examples(self.data.test).asked()

    @cached_property
    def _served(self) -> Any:
        return offramp.load(self.directory)

    def _examples(self, table: Rows) -> EncodedRows[Any]:
        served = self._served
        if isinstance(table, TaggedTable):
            return to_tagged_examples(table, served, self.network.config.label2id)
        return examples_of(table, served.tokenizer, self.network.config)

    def _answers(self, split: str, table: Rows) -> Answers:
        """One split's, kept in a file beside the model."""
        file = self.directory.with_name(f"{self.directory.name}-{split}.npz")
        if not file.exists():
            _write(file, self.network, self._examples(table))
        with np.load(file) as kept:
            found = {name: torch.from_numpy(kept[name]) for name in kept.files}
        task, kind = task_of(self.network), self.data.recipe.kind
        labels_R, lengths_R = found["labels"], found["tokens"]
        units = None
        if kind == "tokens":
            units = Units(len(lengths_R), lengths_R, labels_R != NO_LABEL)
            padded_RL1 = units.padded(labels_R[:, None] - NO_LABEL) + NO_LABEL
            labels_R = padded_RL1[..., 0]
        depths = tuple(found["depths"].tolist())
        exits = EveryExit(depths, found["logits"], task, found.get("certainty"), units)
        return Answers(exits, labels_R, lengths_R, kind, self.network.config.labels)


def first_layers(directory: Path, layers: int, runs: Path) -> Path:
    """A pretrained model of the first layers of another, with its tokenizer."""
    place = runs / f"{PRETRAINED}-{layers}-layers"
    if not place.is_dir():
        weights = offramp.BertModel.from_pretrained(directory).state_dict()
        config = offramp.BertConfig.from_pretrained(directory, num_hidden_layers=layers)
        model = offramp.BertModel(config)
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        model.save_pretrained(place)
        Tokenizer.from_pretrained(directory).save_pretrained(place)
    return place


def _write(file: Path, network: PretrainedModel, examples: EncodedRows[Any]) -> None:
    """Every exit's answers; the file is there whole or not at all."""
    rows = examples.asked()
    exits = every_exit(network, rows)
    in_order = torch.arange(len(examples))
    if isinstance(examples, TaggedExamples):
        labels = examples.beside(in_order)
    else:
        labels = examples.labels_of(in_order)
    arrays = {
        "depths": np.array(exits.depths),
        "logits": exits.logits_ERC.numpy(),
        "labels": labels.numpy(),
        "tokens": np.array([len(row.ids) for row in rows]),
    }
    if exits.certainty_XR is not None:
        arrays["certainty"] = exits.certainty_XR.numpy()
    fresh = file.with_suffix(".part.npz")
    np.savez_compressed(fresh, allow_pickle=False, **arrays)
    fresh.replace(file)
