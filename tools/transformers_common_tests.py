"""transformers' own common tests of models and configurations, run on offramp's classes.

    python tools/transformers_common_tests.py                   # every family in FAMILIES
    python tools/transformers_common_tests.py --family bert -k save_load --report report.md

`tests/test_modeling_common.py` and `tests/test_configuration_common.py` of transformers' source
distribution are downloaded, unpacked into a temporary folder and run; nothing of them is kept. A
failing test is right to fail if `transformers_common_reasons.py` says why, and what its message
holds. Exit code 1 if a test fails for another cause, or if a reason no longer has a failing test.

The distribution lacks three modules that these two import. `stand_ins` puts others in their place:
the mixins of the tests of export and of generation, empty, because those tests are not there; and
values that no configuration has by default, for one test of configurations.

The tests ask for some of transformers' private names. `private_names` gives offramp's classes those
that say something true of them in other words, so that the test behind them runs: nothing that a
test looks at is made up. `AutoModel` is offramp's in them, where offramp has it.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import hashlib
import importlib
import importlib.metadata
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import types
import unittest
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import offramp
from transformers_common_reasons import REASONS, Reason

VERSION = "5.23.0"
SHA256 = "19d647a4d5d903a7c644ca5cde2d86efc3dde7d8c687ae7988806ff2205efa71"
"""Of transformers-5.23.0.tar.gz on PyPI."""

FAMILIES: dict[str, dict[str, Any]] = {
    # model_type: what its tiny configuration has beside TINY
    "bert": {},
}
TINY: dict[str, Any] = {
    # Those that a configuration has no field for are left out.
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "embedding_size": 16,
    "max_position_embeddings": 64,
    "type_vocab_size": 16,
}
CONFIG_ARGUMENTS = {"hidden_size": 37}
"""What the configuration's own tests set: an odd size, as transformers' tests of families do."""
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
SECONDS = 300
"""After which a test is stopped, and has failed."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one test ended: `passed`, `failed` or `skipped`; the tracebacks, or the skip's words."""

    test: str
    ended: str
    words: tuple[str, ...] = ()
    reason: Reason | None = None

    @property
    def why(self) -> str:
        """Why it failed or was skipped."""
        if self.ended == "skipped":
            return self.words[0]
        if self.reason is not None:
            return self.reason.why
        return f"NO REASON KNOWN: {self.words[0].strip().splitlines()[-1].strip()}"


def main() -> None:
    options = arguments()
    console = Console(width=None if sys.stdout.isatty() else 160)
    faults = 0
    pages = []
    stale: list[set[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        sdist = options.sdist or download(Path(folder))
        unpack(sdist, Path(folder))
        with common_tests(Path(folder)) as (modeling, configuration):
            for family in options.family or families():
                began = time.perf_counter()
                case = test_case(family, modeling, configuration)
                reasons = [reason for reason in REASONS if reason.is_for(family)]
                outcomes = explained(run(case, options.k), reasons)
                stale.append(set() if options.k else stale_reasons(outcomes, reasons))
                table(console, family, outcomes, time.perf_counter() - began)
                pages.append(page(family, outcomes))
                faults += sum(o.ended == "failed" and not o.reason for o in outcomes)
                if options.verbose:
                    for outcome in outcomes:
                        if outcome.ended == "failed" and (options.k or not outcome.reason):
                            console.rule(outcome.test)
                            console.print(*outcome.words, markup=False, highlight=False)
    for line in sorted(set.intersection(*stale)):  # of no family that was run
        console.print(f"a reason without a failing test: {line}", markup=False)
        faults += 1
    if options.report:
        options.report.write_text("\n".join(pages), encoding="utf-8")
    sys.exit(1 if faults else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", action="append", help="model_type; several may be given")
    parser.add_argument("-k", metavar="TEXT", help="run only tests whose name holds this text")
    parser.add_argument("--sdist", type=Path, help=f"transformers-{VERSION}.tar.gz, if it is here")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write the result there")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    return parser.parse_args()


# ---------------------------------------------------------------------- transformers' tests


def download(folder: Path) -> Path:
    """transformers' source distribution, from the index that pip is set to."""
    options = ("--no-deps", "--no-binary=:all:", "--no-build-isolation", f"--dest={folder}")
    subprocess.run([*PIP, "download", *options, f"transformers=={VERSION}"], check=True)
    return folder / f"transformers-{VERSION}.tar.gz"


def unpack(sdist: Path, folder: Path) -> None:
    """Put the distribution's `tests` into the folder, and `parameterized`, which they import."""
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{sdist} is not transformers {VERSION} of PyPI: its sha256 is {found}.")
    if (installed := importlib.metadata.version("transformers")) != VERSION:
        sys.exit(f"The tests are those of transformers {VERSION}; installed is {installed}.")
    top = f"transformers-{VERSION}/"
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            if member.name.startswith(top + "tests/"):
                member.name = member.name.removeprefix(top)
                archive.extract(member, folder, filter="data")
    (folder / "tests/__init__.py").touch()
    if importlib.util.find_spec("parameterized") is None:
        subprocess.run([*PIP, "install", f"--target={folder}", "parameterized"], check=True)


@contextmanager
def common_tests(folder: Path) -> Iterator[tuple[types.ModuleType, types.ModuleType]]:
    """The modules of the models' and of the configurations' tests, imported from the folder."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(folder))
    sys.modules.update(stand_ins())
    try:
        modeling = importlib.import_module("tests.test_modeling_common")
        for name in ("AutoModel", "AutoModelForSequenceClassification"):
            setattr(modeling, name, getattr(offramp, name, getattr(modeling, name)))
        yield modeling, importlib.import_module("tests.test_configuration_common")
    finally:
        sys.path.remove(str(folder))


def stand_ins() -> dict[str, types.ModuleType]:
    """The modules that the tests import and the distribution lacks."""
    contents: dict[str, dict[str, Any]] = {
        "tests.exporters": {},
        "tests.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        "tests.generation": {},
        "tests.generation.test_utils": {
            "GenerationTesterMixin": type("GenerationTesterMixin", (), {})
        },
        "tests.utils": {},
        "tests.utils.test_configuration_utils": {"config_common_kwargs": unusual_values()},
    }
    modules = {}
    for name, values in contents.items():
        modules[name] = types.ModuleType(name)
        vars(modules[name]).update(values)
    return modules


def unusual_values() -> dict[str, Any]:
    """Another value than the default for each setting of all transformers' configurations."""
    from transformers import PreTrainedConfig

    chosen: dict[str, Any] = {
        "architectures": ["SomeModel"],
        "dtype": "float16",
        "id2label": {0: "the only one"},
        "label2id": {"the only one": 0},
        "output_attentions": True,
        "problem_type": "regression",
    }
    for field in dataclasses.fields(PreTrainedConfig):
        if isinstance(field.default, bool):
            chosen[field.name] = not field.default
        elif isinstance(field.default, int):
            chosen[field.name] = field.default + 5
    return chosen


# ---------------------------------------------------------------------- offramp's classes in them


def test_case(
    family: str, modeling: types.ModuleType, configuration: types.ModuleType
) -> type[unittest.TestCase]:
    """The family's tests: all of `ModelTesterMixin`, and each check of `ConfigTester` as a test."""
    config_class, model_classes = classes_of(family)
    private_names(config_class, model_classes)
    common = modeling.ModelTesterMixin

    def set_up(self: Any) -> None:
        self.model_tester = Tester(self, config_class, family, modeling)
        self.config_tester = configuration.ConfigTester(
            self, config_class=config_class, **CONFIG_ARGUMENTS
        )

    def config_test(check: str) -> Any:
        return lambda self: getattr(self.config_tester, check)()

    checks = [
        name
        for name in vars(configuration.ConfigTester)
        if name.startswith(("create_and_test_", "check_"))
    ]
    methods: dict[str, Any] = {
        "test_config__"
        + check.removeprefix("create_and_test_").removeprefix("check_"): config_test(check)
        for check in checks
    }

    def prepared(
        self: Any, inputs: dict[str, Any], model_class: Any, return_labels: bool = False
    ) -> dict[str, Any]:
        # transformers' tests of the families that pretrain with two heads do the same.
        inputs = common._prepare_for_class(self, inputs, model_class, return_labels)
        if return_labels and model_class.__name__.endswith("ForPreTraining"):
            shape = (self.model_tester.batch_size, self.model_tester.seq_length)
            inputs["labels"] = modeling.torch.zeros(
                shape, dtype=modeling.torch.long, device=modeling.torch_device
            )
            arguments = modeling.inspect.signature(model_class.forward).parameters
            for name in ("next_sentence_label", "sentence_order_label"):
                if name in arguments:
                    inputs[name] = inputs["labels"][:, 0]
        return inputs

    generates = any(getattr(cls, "can_generate", bool)() for cls in model_classes)
    bases = (common, modeling.GenerationTesterMixin) if generates else (common,)
    return type(
        f"{family.title()}CommonTests",
        (*bases, unittest.TestCase),
        {
            "all_model_classes": model_classes,
            "test_resize_position_embeddings": model_classes[0].position_embeddings_name
            is not None,
            "is_encoder_decoder": getattr(config_class(), "is_encoder_decoder", False),
            "setUp": set_up,
            "_prepare_for_class": prepared,
            **methods,
        },
    )


def private_names(config_class: type, model_classes: Sequence[type]) -> None:
    """Give the classes what the tests read of transformers' private names, where they lack it."""

    def from_config(cls: Any, config: Any, attn_implementation: str | None = None) -> Any:
        return cls.from_config(config)  # which has one attention, and attentions to show

    of_configs = {"base_model_tp_plan": None}  # no plan for tensor parallelism
    of_models = {
        "_from_config": classmethod(from_config),
        "_tied_weights_keys": property(lambda self: dict(self.tied_weights)),
        "_keys_to_ignore_on_load_missing": None,  # no missing weight goes untold
        "_keep_in_fp32_modules": frozenset(),  # all weights are cast alike
        "_keep_in_fp32_modules_strict": frozenset(),
        "_can_set_experts_implementation": classmethod(lambda cls: False),  # no experts
        "_can_set_attn_implementation": classmethod(lambda cls: True),  # set_attn_implementation
        "_supports_sdpa": True,
        "_supports_flash_attn": False,
        "_supports_flex_attn": False,
    }
    for classes, names in (((config_class,), of_configs), (model_classes, of_models)):
        for cls in classes:
            for name, value in names.items():
                if not hasattr(cls, name):
                    setattr(cls, name, value)


def families() -> dict[str, Any]:
    """{model_type: configuration} of every family among offramp's public names."""
    names = (name for name in offramp.__all__ if name.endswith("Config") and name != "AutoConfig")
    configs = (getattr(offramp, name) for name in names)
    return {config.model_type: config for config in configs if config.model_type}


def classes_of(family: str) -> tuple[Any, tuple[Any, ...]]:
    """The family's configuration and models among offramp's public names, the body first."""
    named = families()
    if family not in named:
        sys.exit(f"offramp has no configuration of model_type {family!r}; it has {sorted(named)}.")
    stem = named[family].__name__.removesuffix("Config")
    found = [n for n in offramp.__all__ if n == stem + "Model" or n.startswith(stem + "For")]
    found.sort(key=lambda name: (name != stem + "Model", name))
    classes = dict.fromkeys(getattr(offramp, name) for name in found)  # a class may have two names
    return named[family], tuple(classes)


class Tester:
    """The tests' `model_tester`: a tiny configuration of offramp's, and a padded batch for it."""

    batch_size = 13
    seq_length = 7
    num_choices = 4
    is_training = True

    def __init__(
        self, parent: unittest.TestCase, config_class: Any, family: str, modeling: types.ModuleType
    ) -> None:
        self.parent = parent
        self.config_class = config_class
        self.tests = modeling
        known = {*config_class.__dataclass_fields__, *config_class.attribute_map}
        of_family = FAMILIES.get(family, {})
        self.values = {k: v for k, v in TINY.items() if k in known} | of_family
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            setattr(self, name, getattr(self.get_config(), name))

    def get_config(self) -> Any:
        return self.config_class(**self.values)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
        config = self.get_config()
        shape = [self.batch_size, self.seq_length]
        ids = self.tests.ids_tensor(shape, config.vocab_size)
        if getattr(config, "pad_token_id", None) is not None:  # some families give it no position
            ids[ids == config.pad_token_id] = config.vocab_size - 1
        inputs = {"input_ids": ids, "attention_mask": self.tests.random_attention_mask(shape)}
        if getattr(config, "type_vocab_size", 0):
            inputs["token_type_ids"] = self.tests.ids_tensor(shape, config.type_vocab_size)
        if getattr(config, "is_encoder_decoder", False):
            inputs["decoder_input_ids"] = ids.clone()
            inputs["decoder_attention_mask"] = inputs["attention_mask"].clone()
        return config, inputs


# ---------------------------------------------------------------------- running


class Results(unittest.TestResult):
    """One outcome a test; its subtests' errors are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: list[Outcome] = []
        self._errors: list[str] = []
        self._skips: list[str] = []

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        self._errors, self._skips = [], []

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self._errors.append(self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    addFailure = addError

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        if err is not None:
            self.addError(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self._skips.append(reason)

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().stopTest(test)
        name = test.id().rpartition(".")[2]
        if self._errors:
            self.outcomes.append(Outcome(name, "failed", tuple(self._errors)))
        elif self._skips:
            self.outcomes.append(Outcome(name, "skipped", tuple(self._skips)))
        else:
            self.outcomes.append(Outcome(name, "passed"))


def run(case: type[unittest.TestCase], only: str | None) -> list[Outcome]:
    """Every test of the case whose name holds `only`."""
    loader = unittest.TestLoader()
    names = [name for name in loader.getTestCaseNames(case) if only is None or only in name]
    results = Results()
    for name in names:
        with quiet(), stopped_after(SECONDS):
            unittest.TestSuite([case(name)]).run(results)
        ended = results.outcomes[-1]
        print(f"{ended.ended:8}{name}", file=sys.stderr, flush=True)
    return results.outcomes


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def stopped_after(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"stopped after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ---------------------------------------------------------------------- telling


def explained(outcomes: Sequence[Outcome], reasons: Sequence[Reason]) -> list[Outcome]:
    """The outcomes, each failing one with its reason if there is one."""
    told = []
    for outcome in outcomes:
        if outcome.ended == "failed":
            fitting = (r for r in reasons if r.tells(outcome.test, outcome.words))
            outcome = dataclasses.replace(outcome, reason=next(fitting, None))
        told.append(outcome)
    return told


def stale_reasons(outcomes: Sequence[Outcome], reasons: Sequence[Reason]) -> set[str]:
    """Reasons of tests that do not fail for them any more; a skipped test keeps its reason."""
    stale = set()
    for reason in reasons:
        for pattern in reason.tests:
            named = [o for o in outcomes if fnmatch.fnmatchcase(o.test, pattern)]
            passed = [o.test for o in named if o.ended == "passed"]
            if passed:
                stale.add(f"{', '.join(passed)} passed: {reason.why}")
            elif not any(o.ended == "skipped" or o.reason is reason for o in named):
                stale.add(f"{pattern} does not fail with {reason.says!r}: {reason.why}")
    return stale


def table(console: Console, family: str, outcomes: Sequence[Outcome], seconds: float) -> None:
    count = Counter(outcome.ended for outcome in outcomes)
    grid = Table(title=f"{family}: tests that failed", show_lines=True)
    grid.add_column("test", overflow="fold")
    grid.add_column("why it is right to fail")
    for outcome in outcomes:
        if outcome.ended == "failed":
            grid.add_row(outcome.test, escape(outcome.why))
    if grid.row_count:
        console.print(grid)
    skips = Counter(outcome.why for outcome in outcomes if outcome.ended == "skipped")
    grid = Table(title=f"{family}: tests that were skipped, in their own words")
    grid.add_column("tests", justify="right")
    grid.add_column("why")
    for why, n in skips.most_common():
        grid.add_row(str(n), escape(why))
    if grid.row_count:
        console.print(grid)
    unexplained = sum(o.ended == "failed" and o.reason is None for o in outcomes)
    console.print(
        f"{family}: {count['passed']} passed, {count['failed']} failed ({unexplained} without a "
        f"reason), {count['skipped']} skipped; {seconds:.0f} s"
    )


def page(family: str, outcomes: Sequence[Outcome]) -> str:
    """The family's result as markdown."""
    count = Counter(outcome.ended for outcome in outcomes)
    lines = [
        f"## {family}: transformers {VERSION}'s common tests",
        "",
        f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped.",
        "",
        "| failed | why it is right to fail |",
        "|---|---|",
    ]
    lines += [f"| {o.test} | {cell(o.why)} |" for o in outcomes if o.ended == "failed"]
    lines += ["", "| skipped | in its own words |", "|---|---|"]
    lines += [f"| {o.test} | {cell(o.why)} |" for o in outcomes if o.ended == "skipped"]
    lines += ["", "Passed: " + ", ".join(o.test for o in outcomes if o.ended == "passed") + ".", ""]
    return "\n".join(lines)


def cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
