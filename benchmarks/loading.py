"""Opening a model: time to load it, time from a cold start to an answer, and memory taken.

    python benchmarks/loading.py

offramp and transformers open one directory: a BERT of bert-base's size with random weights, which
transformers makes and saves here. All sides are measured in turn in one run, with the file in the
page cache; quoted are medians, of the rounds' ratios with their 95% interval.

- load: `from_pretrained` in a process that has opened a model before. The floor is torch alone: the
  file mapped, its tensors assigned to bare modules that were made on the meta device.
- cold: a fresh Python process from its start to a model's answer to one row of 16 tokens.
- memory: what loading adds to a fresh process's resident memory before the first forward. A tiny
  model is loaded first, so that code imported on the way does not count. Linux alone tells it. The
  kernel maps what lies around a page that is touched, so RssFile depends on the page cache too.

`--rounds 3` is a quick look. With `--check` it exits 1, naming them, where figures miss their bars.
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported; child processes have it too

import torch
import transformers
from torch import Tensor, nn

import offramp
from offramp.training.evaluation import machine
from offramp.training.timing import speed

SEED = 0
TOKENS = 16
SIDES = ("offramp", "transformers")
ROUNDS = {"load": 21, "cold": 9, "memory": 3}
TINY = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
STATUS = Path("/proc/self/status")

COLD = f"""
import json, sys, time
times = [time.perf_counter()]
import torch
from SIDE import BertModel
times.append(time.perf_counter())
model = BertModel.from_pretrained(sys.argv[1])
times.append(time.perf_counter())
with torch.inference_mode():
    model(input_ids=torch.arange(10, {10 + TOKENS})[None]).pooler_output.tolist()
times.append(time.perf_counter())
parts = zip(("import", "load", "forward"), times, times[1:])
print(json.dumps({{name: (end - began) * 1e3 for name, began, end in parts}}), flush=True)
"""
TORCH_ALONE = "import torch; print('{}', flush=True)"
MEMORY = f"""
import gc, json, sys
from SIDE import BertModel

def resident():
    with open("{STATUS}") as file:
        found = dict(line.split(":") for line in file)
    return {{name: int(found[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon", "RssFile")}}

BertModel.from_pretrained(sys.argv[2])
gc.collect()
before = resident()
model = BertModel.from_pretrained(sys.argv[1])
print(json.dumps({{name: mib - before[name] for name, mib in resident().items()}}), flush=True)
"""
"""What a fresh process runs, `SIDE` being a package: it prints one line of JSON, by name."""

Sample = dict[str, float]
"""What one round measured of one side, by name."""


@dataclass(frozen=True)
class Figure:
    """What a bar is for: at most `bar` is asked for, and less where it is `below`."""

    name: str
    value: float
    bar: float
    unit: str
    below: bool = False

    @property
    def is_met(self) -> bool:
        return self.value < self.bar if self.below else self.value <= self.bar


def main() -> None:
    options = arguments()
    rounds = {name: options.rounds or number for name, number in ROUNDS.items()}
    print(f"machine: {machine()}; cores: {os.cpu_count()}")
    print(f"seed: {SEED}; rounds: {rounds}; tokens: {TOKENS}; HF_HUB_OFFLINE=1")
    with working_directory(options.work) as work:
        base, tiny = make_model(work / "base", {}), make_model(work / "tiny", TINY)
        print(f"file: {(base / 'model.safetensors').stat().st_size / 2**20:.0f} MiB")
        figures = [load(base, rounds["load"]), cold(base, rounds["cold"])]
        if STATUS.is_file():
            figures.append(memory(base, tiny, rounds["memory"]))
    print("\nbars")
    for figure in figures:
        bar = f"{'below' if figure.below else 'at most'} {figure.bar:g}"
        verdict = "met" if figure.is_met else "MISSED"
        print(f"  {figure.name:8} {figure.value:.2f} {figure.unit}, {bar}: {verdict}")
    missed = [figure.name for figure in figures if not figure.is_met]
    if options.check and missed:
        sys.exit(f"bars missed: {', '.join(missed)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help=f"of each measurement; as it is, {ROUNDS}")
    parser.add_argument("--work", type=Path, help="where the models are made, and kept")
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar is missed")
    return parser.parse_args()


def load(directory: Path, rounds: int) -> Figure:
    opened: dict[str, Callable[[Path], nn.Module]] = {
        "offramp": offramp.BertModel.from_pretrained,
        "transformers": transformers.BertModel.from_pretrained,
        "floor": bare_modules,
    }
    with no_progress_bars():
        check_answers(opened["offramp"](directory), opened["transformers"](directory))
        measures = {name: partial(loading, opener, directory) for name, opener in opened.items()}
        samples = in_turn(measures, rounds)
    show("load, ms", samples)
    return Figure("load", share(samples), 0.30, "of transformers' time")


def loading(opener: Callable[[Path], nn.Module], directory: Path) -> Sample:
    gc.collect()  # no side pays for another's garbage
    began = time.perf_counter()
    model = opener(directory)
    milliseconds = (time.perf_counter() - began) * 1e3
    del model  # outside of what is measured
    return {"total": milliseconds}


def cold(directory: Path, rounds: int) -> Figure:
    programs = {side: COLD.replace("SIDE", side) for side in SIDES}
    programs["torch alone"] = TORCH_ALONE
    measures = {name: partial(said, program, directory) for name, program in programs.items()}
    samples = in_turn(measures, rounds)
    show("cold, ms", samples)
    return Figure("cold", share(samples), 0.45, "of transformers' time")


def memory(directory: Path, tiny: Path, rounds: int) -> Figure:
    programs = {side: MEMORY.replace("SIDE", side) for side in SIDES}
    measures = {side: partial(said, program, directory, tiny) for side, program in programs.items()}
    samples = in_turn(measures, rounds)
    for runs in samples.values():
        for sample in runs:
            del sample["total"]  # its time is of no interest
    show("memory added, MiB", samples)
    added = statistics.median(sample["VmRSS"] for sample in samples["offramp"])
    return Figure("memory", added, 32, "MiB", below=True)


def said(program: str, *directories: Path) -> Sample:
    """The numbers that a fresh process prints, and as `total` the ms from its start until then."""
    command = [sys.executable, "-c", program, *map(str, directories)]
    # As installed packages have it: the round that does not count compiles what is not yet.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        milliseconds = (time.perf_counter() - began) * 1e3
        errors = process.stderr.read().decode()
    if process.returncode:
        sys.exit(f"a process of the benchmark failed:\n{program}\n{errors}")
    numbers: Sample = json.loads(line)
    return {"total": milliseconds, **numbers}


def in_turn(measures: Mapping[str, Callable[[], Sample]], rounds: int) -> dict[str, list[Sample]]:
    """Each side's samples; a round measures every side once, in alternating order.

    One round that does not count comes first.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in measures}
    for turn in range(rounds + 1):
        for name in list(measures)[:: 1 if turn % 2 else -1]:
            sample = measures[name]()
            if turn:
                samples[name].append(sample)
    return samples


def show(title: str, samples: Mapping[str, list[Sample]]) -> None:
    print(f"\n{title}: medians of {len(samples['offramp'])} rounds")
    for side, runs in samples.items():
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        numbers = ", ".join(f"{name} {number:.1f}" for name, number in medians.items())
        print(f"  {side:14} {numbers}")


def share(samples: Mapping[str, list[Sample]]) -> float:
    """offramp's time as a share of transformers': the median of the rounds' ratios."""
    totals = {side: [sample["total"] for sample in runs] for side, runs in samples.items()}
    for side in totals:
        if side != "transformers":
            ratio = speed(totals["transformers"], totals[side])
            interval = f"[{ratio.low:.3f}, {ratio.high:.3f}]"
            print(f"  {side} / transformers  {ratio.median:.3f} {interval}")
    return speed(totals["transformers"], totals["offramp"]).median


def make_model(directory: Path, numbers: Mapping[str, int]) -> Path:
    """A BERT that transformers made and saved, and that is in the page cache."""
    if not (directory / "model.safetensors").is_file():
        torch.manual_seed(SEED)
        config = transformers.BertConfig(**numbers)
        with no_progress_bars():
            transformers.BertModel(config).save_pretrained(directory)
    with (directory / "model.safetensors").open("rb") as file:
        while file.read(1 << 24):
            pass
    return directory


def check_answers(ours: Any, theirs: Any) -> None:
    input_ids = torch.arange(10, 10 + TOKENS)[None]
    with torch.inference_mode():
        answers = [model.eval()(input_ids=input_ids).pooler_output for model in (ours, theirs)]
    difference = (answers[0] - answers[1]).abs().max().item()
    print(f"answers differ by at most {difference:.1e}")
    if not difference < 1e-5:
        sys.exit("the two sides did not open the same model")


def bare_modules(directory: Path) -> nn.Module:
    """The least that torch can do: the file's tensors, assigned to modules that cannot answer."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    width, middle = config["hidden_size"], config["intermediate_size"]

    def projected(width_in: int) -> nn.ModuleDict:
        return nn.ModuleDict(
            {"dense": nn.Linear(width_in, width), "LayerNorm": nn.LayerNorm(width)}
        )

    def attention() -> nn.ModuleDict:
        own = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        return nn.ModuleDict({"self": own, "output": projected(width)})

    def layer() -> nn.ModuleDict:
        widened = nn.ModuleDict({"dense": nn.Linear(width, middle)})
        return nn.ModuleDict(
            {"attention": attention(), "intermediate": widened, "output": projected(middle)}
        )

    with torch.device("meta"):
        sizes = {
            "word_embeddings": config["vocab_size"],
            "position_embeddings": config["max_position_embeddings"],
            "token_type_embeddings": config["type_vocab_size"],
        }
        tables = {name: nn.Embedding(size, width) for name, size in sizes.items()}
        layers = nn.ModuleList(layer() for _ in range(config["num_hidden_layers"]))
        model = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict({**tables, "LayerNorm": nn.LayerNorm(width)}),
                "encoder": nn.ModuleDict({"layer": layers}),
                "pooler": nn.ModuleDict({"dense": nn.Linear(width, width)}),
            }
        )
    model.load_state_dict(mapped(directory / "model.safetensors"), assign=True)
    return model.eval()


def mapped(path: Path) -> dict[str, Tensor]:
    """A safetensors file of 32-bit floats as private views of its mapping, nothing checked."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        flat = torch.frombuffer(
            mapping, dtype=torch.float32, count=(end - begin) // 4, offset=8 + length + begin
        )
        tensors[name] = flat.view(entry["shape"])
    return tensors


@contextmanager
def working_directory(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="offramp-loading-") as directory:
        yield Path(directory)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.enable_progress_bar()


if __name__ == "__main__":
    main()
