"""Mutants of checkpoints over offramp's readers: each is read whole or refused, and nothing else.

    python benchmarks/fuzz_checkpoints.py --work runs/fuzz --mutants 1000000

Small sound files, made by offramp's writers, torch, safetensors and pickle, are changed by bytes,
integers and spans, and by what they are made of: a header's entries, a pickle's instructions, a
zip's fields (checksums made good), JSON's tokens. Mutant number n is a function of the seed, n and
the files, which are kept under `--work`. Some hold pickles that make a directory when executed.

A mutant is either read, and then every number of it is touched, or refused: CheckpointError of a
known kind (for config.json ConfigError too). A failure is anything else: another exception, the end
of the process, more than two seconds, more memory than the file and 64 MiB, the planted directory,
or an act that no reader has use for, such as an import or a file opened elsewhere.

Workers are processes of their own. What is done stands in `--work`/state.jsonl: a run that was
stopped goes on there, and one with other readers, or another seed, begins anew. Failures lie in
`--work`/failures, the first of each sort; `--replay N` shows mutant N. Linux alone.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from fuzzing.corpus import make_corpus
from fuzzing.mutants import Fuzzer
from fuzzing.readers import reader_of
from fuzzing.run import fuzz
from fuzzing.state import State
from offramp.errors import CheckpointError, ConfigError


def main() -> None:
    options = arguments()
    if options.replay is not None:
        replay(options.work, options.seed, options.replay, options.reader)
        return
    from offramp.training.evaluation import machine  # and torch, which --replay does without

    print(f"machine: {machine()}\nseed {options.seed}, {options.workers} workers", flush=True)
    began = time.monotonic()
    state = fuzz(
        options.work,
        options.mutants,
        seed=options.seed,
        workers=options.workers,
        reader=options.reader,
    )
    seconds, done = time.monotonic() - began, state.mutants - state.before
    print(f"this run: {done} in {seconds:.1f} s, {done / seconds:.0f} a second")
    print(f"mutants: {state.mutants} of {options.mutants}")
    print(report(state))
    sys.exit(1 if state.failures else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="what is kept of the run")
    parser.add_argument("--mutants", type=int, default=1_000_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--replay", type=int, metavar="N", help="show what mutant N does")
    parser.add_argument("--reader", type=Path, help="a file with read(path), in offramp's place")
    return parser.parse_args()


def report(state: State) -> str:
    lines = [f"{'':18}{'read':>9}{'refused':>9}{'failed':>9}  refused as"]
    for target, counts in state.counts.items():
        refused = {kind: n for kind, n in sorted(counts.items()) if kind not in ("read", "failed")}
        row = "".join(f"{n:9}" for n in (counts["read"], sum(refused.values()), counts["failed"]))
        lines.append(f"{target:18}{row}  {', '.join(f'{k} {n}' for k, n in refused.items())}")
    sorts = Counter(sort for sort, _ in state.failures.values())
    for sort, count in sorts.most_common():
        first = min(n for n, (found, _) in state.failures.items() if found == sort)
        lines.append(f"FAILURE {sort}: {count}, the first of them mutant {first}")
    return "\n".join([*lines, f"failures: {len(state.failures)}"])


def replay(directory: Path, seed: int, number: int, reader: Path | None) -> None:
    """Write one mutant under `directory`/replay with the files beside it, and read it."""
    directory = directory.absolute()
    read = reader_of(reader)
    make_corpus(directory / "corpus")
    fuzzer = Fuzzer(directory / "corpus", seed)
    mutant = fuzzer.mutant(number)
    shutil.rmtree(directory / "replay", ignore_errors=True)
    path = fuzzer.lay_out(directory / "replay")[mutant.sample]
    path.write_bytes(mutant.content)
    origin = f"{mutant.sample.directory}/{mutant.sample.file}"
    print(f"mutant {number} of {origin}: {path}, options {mutant.choice}", flush=True)
    os.chdir(path.parent)
    faulthandler.enable()
    try:
        read(path, mutant.choice)
        print("read")
    except (CheckpointError, ConfigError) as error:
        print(f"{type(error).__name__} of kind {getattr(error, 'kind', 'config')}: {error}")


if __name__ == "__main__":
    main()
