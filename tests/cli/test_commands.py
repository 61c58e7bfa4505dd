"""The command line: what a person sees of a good run, and of each bad input."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from exit_models import toy_rows, write_body
from invoking import Done

import offramp
from offramp.cli.app import app
from offramp.training.options import TrainingOptions

SCRIPT = Path(sys.executable).with_name("offramp")
TINY = ["--epochs", "1", "--batch-size", "16", "--learning-rate", "2e-3"]
QUICK = ["--rounds", "1", "--timing-rows", "5", "--no-transformers"]


def write_rows(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data (train, dev and test), a body without a head, and a trained model."""
    folder = tmp_path_factory.mktemp("place")
    for seed, (name, n) in enumerate({"train": 160, "dev": 40, "test": 40}.items()):
        write_rows(folder / f"{name}.tsv", toy_rows(n, seed))
    write_body(folder / "body")
    offramp.train(
        folder / "body",
        offramp.read_table(folder / "train.tsv"),
        folder / "model",
        dev=offramp.read_table(folder / "dev.tsv"),
        options=TrainingOptions(
            epochs=2, batch_size=16, learning_rate=2e-3, ramp_learning_rate=4e-3
        ),
    )
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


# ---------------------------------------------------------------------------------------------
# The script itself, as a process.


def script(folder: Path, *args: str) -> Done:
    done = subprocess.run(
        [SCRIPT, *args],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_train_evaluate_predict(place: Path, tmp_path: Path, run: Callable[..., Done]) -> None:
    out = tmp_path / "sentiment"
    data = ["--data", "train.tsv", "--dev", "dev.tsv", "--model", "body", "--output", str(out)]
    done = script(place, "train", *data, *TINY)
    assert done.code == 0, done.err
    assert f"Wrote {out}. Threshold" in done.err.replace("\n", "")
    assert (out / "metrics.jsonl").is_file()

    table = tmp_path / "table.json"
    done = run("evaluate", out, "--dev", "dev.tsv", "--data", "test.tsv", *QUICK, "--output", table)
    assert done.code == 0, done.err
    assert "plain" in done.out
    assert "(chosen)" in done.out
    values = json.loads(table.read_text())
    (chosen,) = [line for line in values["lines"] if line["chosen"]]

    answers = tmp_path / "answers.jsonl"
    threshold = repr(chosen["criterion"]["threshold"])
    done = run("predict", out, "--data", "test.tsv", "--output", answers, "--threshold", threshold)
    assert done.code == 0, done.err
    found = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
    labels = offramp.read_table(place / "test.tsv").labels
    assert labels is not None
    right = [answer["label"] == label for answer, label in zip(found, labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(chosen["scores"]["accuracy"])
    layers = [answer["exit_layer"] for answer in found]
    assert sum(layers) / len(layers) == pytest.approx(chosen["mean_layers"])

    done = script(place, "predict", str(out), "a good film", "bad")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [set(line) for line in lines] == [{"label", "probability", "exit_layer"}] * 2
    assert done.err == ""
    assert {path.name for path in tmp_path.iterdir()} == {
        "sentiment",
        "table.json",
        "answers.jsonl",
    }


def test_a_bad_input_as_a_process(place: Path, tmp_path: Path) -> None:
    before = contents(place)
    said = (
        "offramp: absent does not exist. Expected a directory with config.json and weights, a "
        "built-in name, or owner/name on the hub.\n"
    )
    assert script(place, "predict", "absent", "good") == Done(2, "", said)
    assert contents(place) == before


def test_torch_is_not_imported_for_help() -> None:
    program = (
        "import sys; from offramp.cli.app import app; "
        "app(['train', '--help'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "offramp", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert "offramp train" in done.stdout


# ---------------------------------------------------------------------------------------------
# In this process from here on.


@pytest.mark.parametrize("command", ["", *app.commands])
def test_help_has_an_example(command: str, run: Callable[..., Done]) -> None:
    for flag in ("--help", "-h"):
        done = run(*command.split(), flag)
        assert done.code == 0
        assert f"Example: offramp {command}".strip() in " ".join(done.out.split())


def test_version(run: Callable[..., Done]) -> None:
    assert offramp.__version__ in run("--version").out


ROWS = {
    "header only": "text\tlabel\n",
    "empty": "",
    "one class": "text\tlabel\ngood\tpos\nfine\tpos\n",
    "no text": "text\tlabel\ngood\tpos\n\tneg\n",
    "wide": "text\tlabel\ngood\tpos\tmore\n",
    "another label": "text\tlabel\ngood\tpos\nso-so\tneutral\n",
}
BAD_DATA = [
    ("header only", "has no rows"),
    ("empty", "has no rows"),
    ("no text", "line 3: 'text' has no text"),
    ("wide", "line 2: 3 fields"),
    ("absent", "does not exist"),
    ("folder", "is a directory"),
    ("latin", "line 2: not UTF-8"),
    ("ending", "ending '.xls'"),
]


def write_bad(kind: str, folder: Path) -> Path:
    path = folder / ("bad.xls" if kind == "ending" else "bad.tsv")
    if kind == "folder":
        path.mkdir()
    elif kind == "latin":
        path.write_bytes("text\tlabel\ncafé\tpos\n".encode("latin-1"))
    elif kind == "ending":
        path.write_text("text,label\n")
    elif kind != "absent":
        path.write_text(ROWS[kind])
    return path


def assert_refused(done: Done, message: str) -> None:
    """Exit code 2, nothing on stdout, and one line that has the message."""
    assert done.code == 2
    assert done.out == ""
    said = done.err.strip()
    assert said.startswith("offramp: ")
    assert "\n" not in said, said
    assert message in said


@pytest.mark.parametrize(("kind", "message"), BAD_DATA)
@pytest.mark.parametrize(
    "command", ["train", "train's dev", "evaluate", "evaluate's dev", "predict"]
)
def test_bad_data(
    command: str, kind: str, message: str, run: Callable[..., Done], place: Path, tmp_path: Path
) -> None:
    bad = write_bad(kind, tmp_path)
    output = tmp_path / "output"
    before = contents(place), contents(tmp_path)
    done = {
        "train": lambda: run("train", "--data", bad, "--model", "body", "--output", output),
        "train's dev": lambda: run(
            "train", "--data", "train.tsv", "--dev", bad, "--model", "body", "--output", output
        ),
        "evaluate": lambda: run("evaluate", "model", "--data", bad, "--output", output),
        "evaluate's dev": lambda: run(
            "evaluate", "model", "--data", "test.tsv", "--dev", bad, "--output", output
        ),
        "predict": lambda: run("predict", "model", "--data", bad, "--output", output),
    }[command]()
    assert_refused(done, message)
    assert str(bad) in done.err
    assert (contents(place), contents(tmp_path)) == before


TRAIN = ("train", "--data", "train.tsv", "--dev", "dev.tsv", "--model", "body", *TINY)
EVALUATE = ("evaluate", "model", "--data", "test.tsv", *QUICK)
PREDICT = ("predict", "model", "--data", "test.tsv")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((*TRAIN, "--text", "sentence"), "no column 'sentence'. It has 'text', 'label'"),
        ((*TRAIN, "--label", "class"), "no column 'class'. It has 'text', 'label'"),
        ((*TRAIN, "--pair", "other"), "no column 'other'"),
        ((*EVALUATE, "--text", "sentence"), "no column 'sentence'"),
        ((*PREDICT, "--text", "sentence"), "no column 'sentence'"),
        ((*TRAIN, "--model", "absent"), "absent does not exist"),
        ((*TRAIN, "--model", "test.tsv"), "test.tsv"),
        ((*TRAIN, "--model", "."), "no config.json"),
        (("evaluate", "absent", "--data", "test.tsv"), "absent does not exist"),
        (("evaluate", ".", "--data", "test.tsv"), "no config.json"),
        (("evaluate", "body", "--data", "test.tsv"), "not a trained classifier"),
        (("predict", "absent", "good"), "absent does not exist"),
        (("predict", ".", "good"), "no config.json"),
        (("predict", "body", "good"), "offramp train --model body"),
        ((*TRAIN, "--depths", "3"), "from 1 to 2"),
        ((*TRAIN, "--depths", "0"), "from 1 to 2"),
        ((*TRAIN, "--depths", "1,1"), "different layers"),
        ((*TRAIN, "--depths", "one"), "--depths takes layers"),
        ((*TRAIN, "--depths", ""), "--depths takes layers"),
        ((*TRAIN, "--class-weights", "spam=3"), "names 'spam'. Known: neg, pos"),
        ((*TRAIN, "--class-weights", "pos=much"), "--class-weights takes"),
        ((*TRAIN, "--class-weights", "pos=-1"), "class weight of 'pos'"),
        ((*TRAIN, "--class-weights", "even"), "'balanced' or a weight"),
        ((*TRAIN, "--pooler", "max"), "pooler is one of"),
        ((*TRAIN, "--score", "auc"), "score is one of"),
        ((*TRAIN, "--epochs", "0"), "epochs must be a whole number of at least 1"),
        ((*TRAIN, "--batch-size", "-1"), "batch_size must be a whole number of at least 1"),
        ((*TRAIN, "--learning-rate", "nan"), "learning_rate must be"),
        ((*TRAIN, "--max-loss", "-1"), "max_loss must be"),
        ((*TRAIN, "--max-length", "2"), "max_length must be at least"),
        ((*TRAIN, "--freeze-backbone"), "Fine-tune the model first"),
        ((*EVALUATE, "--thresholds", ".1,low"), "--thresholds takes numbers"),
        ((*EVALUATE, "--thresholds", "-.1"), "entropy threshold"),
        ((*EVALUATE, "--thresholds", "nan"), "entropy threshold"),
        ((*EVALUATE, "--rounds", "0"), "rounds must be at least 1"),
        ((*EVALUATE, "--timing-rows", "0"), "timing_rows must be at least 1"),
        ((*EVALUATE, "--dev", "test.tsv"), "40 texts of test.tsv are in test.tsv too"),
        ((*PREDICT, "--threshold", "-1"), "entropy threshold"),
        ((*PREDICT, "--threshold", "nan"), "entropy threshold"),
        ((*PREDICT, "--threads", "0"), "threads must be at least 1"),
        ((*PREDICT, "good film"), "either texts or --data"),
        (("predict", "model"), "either texts or --data"),
    ],
)
def test_bad_arguments(
    args: tuple[str, ...], message: str, run: Callable[..., Done], place: Path, tmp_path: Path
) -> None:
    before = contents(place)
    done = run(*args, "--output", tmp_path / "output")
    assert_refused(done, message)
    assert contents(place) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("train", "--output", "out"), "Missing option '--data'"),
        ((*TRAIN, "--epochs", "many"), "'many' is not a valid integer"),
        (("predict", "model", "good", "--threshold", "low"), "'low' is not a valid float"),
        (("predict", "model", "good", "--treshold", "1"), "No such option '--treshold'"),
        (("predict",), "Missing argument 'MODEL'"),
        (("fit",), "No such command 'fit'"),
    ],
)
def test_usage_errors(args: tuple[str, ...], message: str, run: Callable[..., Done]) -> None:
    done = run(*args)
    assert done.code == 2
    assert message in " ".join(done.err.split())


@pytest.mark.parametrize("command", ["train", "evaluate", "evaluate's dev"])
def test_a_label_not_seen_in_training(
    command: str, run: Callable[..., Done], tmp_path: Path
) -> None:
    odd = tmp_path / "odd.tsv"
    odd.write_text(ROWS["another label"])
    output = tmp_path / "output"
    args = {
        "train": (*TRAIN[:3], "--model", "body", "--dev", str(odd)),
        "evaluate": ("evaluate", "model", "--data", str(odd)),
        "evaluate's dev": (*EVALUATE, "--dev", str(odd)),
    }[command]
    done = run(*args, "--output", output)
    assert_refused(done, f"{odd}, row 2: the label 'neutral' was not seen in training")
    assert [path.name for path in tmp_path.iterdir()] == ["odd.tsv"]


def test_one_class_only(run: Callable[..., Done], tmp_path: Path) -> None:
    data = tmp_path / "one.tsv"
    data.write_text(ROWS["one class"])
    done = run("train", "--data", data, "--model", "body", "--output", tmp_path / "output")
    assert_refused(done, "only the labels ['pos']; a classifier needs at least two")
    assert [path.name for path in tmp_path.iterdir()] == ["one.tsv"]


@pytest.mark.parametrize("args", [TRAIN, EVALUATE, PREDICT], ids=lambda args: args[0])
@pytest.mark.parametrize("kind", ["of the other kind", "under a file", "in no folder"])
def test_an_output_that_cannot_be_is_refused_before_the_work(
    kind: str, args: tuple[str, ...], run: Callable[..., Done], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    if kind == "in no folder" and args is TRAIN:
        pytest.skip("a model's directory is made with the folders above it")
    output = {
        "of the other kind": "file" if args is TRAIN else "folder",
        "under a file": "file/output",
        "in no folder": "absent/output",
    }[kind]
    before = contents(tmp_path)
    # One line on stderr and an empty stdout: nothing was trained, measured or predicted before.
    assert_refused(run(*args, "--output", tmp_path / output), str(tmp_path))
    assert contents(tmp_path) == before


def test_a_prediction_that_fails_keeps_the_file_that_was_there(
    run: Callable[..., Done], tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    output.write_text("an earlier run's\n")
    assert_refused(run(*PREDICT, "--threads", "0", "--output", output), "threads")
    assert contents(tmp_path) == {"answers.jsonl": b"an earlier run's\n"}
    assert run(*PREDICT, "--output", output).code == 0
    assert len(output.read_text().splitlines()) == 40
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


def test_half_a_surrogate_pair_in_the_data(run: Callable[..., Done], tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "cut \\ud83d"}\n', "utf-8")
    assert_refused(run("predict", "model", "--data", data), "")


def test_predict_takes_texts_and_options(run: Callable[..., Done], place: Path) -> None:
    classifier = offramp.load(place / "model")
    texts = ["a good film", "the plot was bad", "it was ñ 漢字"]
    for args, threshold in ((), None), (("--threshold", "0"), 0.0), (("--threshold", "9"), 9.0):
        done = run("predict", "model", *texts, *args, "--threads", "1")
        assert done.code == 0
        found = [json.loads(line) for line in done.out.splitlines()]
        expected = classifier.predict(texts, threshold=threshold)
        assert [(f["label"], f["exit_layer"]) for f in found] == [
            (p.label, p.exit_layer) for p in expected
        ]
        assert [f["probability"] for f in found] == pytest.approx(
            [p.probability for p in expected], abs=1e-5
        )


def test_predict_needs_no_labels_and_reads_pairs(
    run: Callable[..., Done], place: Path, tmp_path: Path
) -> None:
    rows = [("good film", "bad"), ("bad plot", "good")]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in rows))
    done = run("predict", "model", "--data", data, "--text", "a", "--pair", "b")
    assert done.code == 0, done.err
    expected = offramp.load(place / "model").predict(list(rows))
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [f["probability"] for f in found] == pytest.approx([p.probability for p in expected])


def test_options_of_train_reach_the_training(run: Callable[..., Done], tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = run(
        *TRAIN, "--depths", "2", "--pooler", "mean", "--class-weights", "neg=1, pos=2",
        "--max-length", "20", "--evaluations-per-epoch", "2", "--growth", "1.2",
        "--accumulate", "2", "--precision", "bfloat16", "--output", output,
    )  # fmt: skip
    assert done.code == 0, done.err
    classifier = offramp.load(output)
    section = json.loads((output / "config.json").read_text())["exits"]
    assert (section["depths"], section["pooler"]) == ([2], "mean")
    assert classifier.growth == 1.2
    assert classifier.tokenizer.max_length == 20
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 5]  # of 32 of 160 rows
    assert done.err.count("epoch 1 ") == 2


def test_train_by_another_schedule(run: Callable[..., Done], tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = run(
        *TRAIN, "--schedule", "joint-distillation", "--distillation-weight", ".5",
        "--temperature", "3", "--gradient-equilibrium", "--output", output,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "joint-distillation: epoch 1 " in done.err
    done = run(*TRAIN, "--schedule", "two-stage", "--output", output)
    assert done.code == 0, done.err
    stages = [
        json.loads(line)["stage"] for line in (output / "metrics.jsonl").read_text().splitlines()
    ]
    assert stages == ["backbone", "ramps"]
    done = run(*TRAIN, "--schedule", "threestage", "--output", output)
    assert_refused(done, "Did you mean 'two-stage'?")
    done = run(*TRAIN, "--temperature", "3", "--output", output)
    assert_refused(done, "temperature is of the schedule 'joint-distillation'")


def test_train_resumes(run: Callable[..., Done], place: Path, tmp_path: Path) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop(line: dict[str, object]) -> None:
        if line["epoch"] == 2:
            raise Stop

    data, dev = (offramp.read_table(place / f"{name}.tsv") for name in ("train", "dev"))
    options = TrainingOptions(epochs=2, batch_size=16, learning_rate=2e-3)
    with pytest.raises(Stop):
        offramp.train(
            place / "body", data, tmp_path / "out", dev=dev, options=options, on_evaluation=stop
        )
    command = (*TRAIN, "--epochs", "2", "--output", tmp_path / "out")
    done = run(*command, "--seed", "1", "--resume")
    assert_refused(done, "belongs to another run, whose seed was 0; now it is 1")
    done = run(*command, "--resume")
    assert done.code == 0, done.err
    assert "epoch 1 " not in done.err
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_train_then_freeze(run: Callable[..., Done], tmp_path: Path) -> None:
    done = run(
        "train", "--data", "train.tsv", "--model", "model", "--freeze-backbone", "--epochs", "1",
        "--class-weights", "balanced", "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert offramp.load(tmp_path / "out").labels == ["neg", "pos"]


def test_evaluate_says_what_it_found(run: Callable[..., Done], tmp_path: Path) -> None:
    done = run(*EVALUATE, "--thresholds", ".1,.5", "--output", tmp_path / "table.json")
    assert done.code == 0, done.err
    values = json.loads((tmp_path / "table.json").read_text())
    systems = [line["system"] for line in values["lines"]]
    assert systems[:3] == ["plain", "truncated to 1", "truncated to 2"]
    assert {"exits at 0.1", "exits at 0.5"} <= set(systems)
    for line in values["lines"]:
        assert f"{line['scores']['accuracy']:.4f}" in done.out
        assert line["system"] in done.out
    loss, low, high = values["loss"]
    said = " ".join(done.out.split())
    assert f"loses {loss:.2f} points" in said
    assert f"interval {low:.2f} to {high:.2f}" in said


def test_an_output_that_is_read_or_no_file_is_left_alone(
    run: Callable[..., Done], place: Path, tmp_path: Path
) -> None:
    before = contents(place)
    for option, others in (("--data", ()), ("--dev", ("--data", "test.tsv"))):
        done = run("evaluate", "model", *others, option, "train.tsv", "--output", "train.tsv")
        assert_refused(done, "train.tsv is a file that is read")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(run(*EVALUATE, "--output", tmp_path / "pipe"), "is a device or a pipe")
    assert (tmp_path / "pipe").is_fifo()
    assert_refused(run(*EVALUATE, "--output", tmp_path / ("n" * 250)), "is too long")
    assert_refused(run(*TRAIN, "--output", tmp_path / ("n" * 250)), "is too long")
    assert contents(place) == before


def test_a_label_in_brackets_is_shown_as_it_is(run: Callable[..., Done], tmp_path: Path) -> None:
    rows = "text\tlabel\n" + "good film\t[/pos]\nbad film\t[neg]\n" * 12
    (tmp_path / "rows.tsv").write_text(rows)
    done = run(
        "train", "--data", tmp_path / "rows.tsv", "--dev", tmp_path / "rows.tsv", "--model", "body",
        "--epochs", "1", "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0
    done = run("evaluate", tmp_path / "out", "--data", tmp_path / "rows.tsv", *QUICK)
    assert done.code == 0
    assert "[neg]" in done.out
