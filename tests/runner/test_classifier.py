"""`offramp.load` of a classifier: text in, labels out."""

import dataclasses
import itertools
import json
import math
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from exit_models import WORDS, tiny_config, tiny_model, toy_rows, write_body, write_tokenizer

import offramp
from offramp.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ModelNotFoundError,
    NaNLogitsWarning,
)
from offramp.exits.attach import add_exits, exits_of, logits_by_depth
from offramp.exits.criteria import Criterion, Entropy
from offramp.models.bert import BertForSequenceClassification
from offramp.models.inputs import Inputs
from offramp.models.mpnet import MPNetConfig, MPNetForSequenceClassification
from offramp.nn.blocks import EncoderLayer
from offramp.runner.classifier import Classifier, Prediction
from offramp.runner.loading import load
from offramp.text.tokenizer import Text, Tokenizer


def some_texts(n: int = 60, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(n)]


def write_classifier(directory: Path, *, threshold: float = 0.5, **changes: object) -> Path:
    model = tiny_model(2, id2label={0: "bad", 1: "so-so", 2: "good"}, **changes)
    exits_of(model).criterion = Entropy(threshold)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier") / "model")


@pytest.fixture
def classifier(directory: Path) -> Classifier:
    return offramp.load(directory)


def expected_of(classifier: Classifier, text: Text, threshold: float) -> Prediction:
    """A row's prediction from its own logits at each depth, by the definition."""
    (row,) = classifier.tokenizer.encode([text])
    with torch.inference_mode():
        by_depth = logits_by_depth(classifier.model, Inputs.from_rows([row.ids], [row.types]))
    for depth, logits_RC in by_depth.items():
        probability_C = logits_RC[0].double().softmax(-1)
        entropy = -(probability_C * probability_C.log()).sum().item()
        if entropy < threshold or depth == max(by_depth):
            best = int(probability_C.argmax())
            return Prediction(classifier.labels[best], probability_C[best].item(), depth)
    raise AssertionError


def assert_same(found: list[Prediction], expected: list[Prediction]) -> None:
    assert [(p.label, p.exit_layer) for p in found] == [(p.label, p.exit_layer) for p in expected]
    assert [p.probability for p in found] == pytest.approx(
        [p.probability for p in expected], abs=1e-5
    )


def test_predictions_in_order_by_their_definition(classifier: Classifier) -> None:
    texts = some_texts()
    found = classifier.predict(texts)
    assert_same(found, [expected_of(classifier, text, 0.5) for text in texts])
    assert len({p.label for p in found}) > 1
    assert classifier.labels == ["bad", "so-so", "good"]
    assert {p.exit_layer for p in found} == {1, 2, 3}
    assert_same(found[::-1], classifier.predict(texts[::-1]))


def test_pairs(classifier: Classifier) -> None:
    pairs: list[Text] = list(zip(some_texts(seed=1), some_texts(seed=2), strict=True))
    found = classifier.predict(pairs)
    assert_same(found, [expected_of(classifier, pair, 0.5) for pair in pairs])
    # The second text and its segment are read: neither alone nor joined are they the same row.
    joined = classifier.predict([" ".join(pair) for pair in pairs])
    assert [p.probability for p in found] != pytest.approx([p.probability for p in joined])


def test_threshold_of_a_call_and_of_the_model(classifier: Classifier) -> None:
    texts = some_texts()
    assert classifier.threshold == 0.5
    for threshold in (0.0, 0.2, 0.9, 2.0):
        assert_same(
            classifier.predict(texts, threshold=threshold),
            [expected_of(classifier, text, threshold) for text in texts],
        )
    assert classifier.threshold == 0.5
    classifier.threshold = 2.0
    assert {p.exit_layer for p in classifier.predict(texts)} == {1}
    classifier.threshold = 0.0
    assert {p.exit_layer for p in classifier.predict(texts)} == {3}
    assert {p.exit_layer for p in classifier.predict(texts, threshold=2.0)} == {1}


def test_growth_stays_when_the_threshold_changes(tmp_path: Path) -> None:
    classifier = load(write_classifier(tmp_path / "model"))
    classifier.criterion = Entropy(0.01, growth=8.0)
    texts = ["good film", "a bad bad story", "music"]
    plain = classifier.predict(texts, threshold=0.0)
    assert len({p.exit_layer for p in plain}) == 1
    # At layer 1 the threshold is 0.2, at layer 2 it is 1.6: above any entropy of three classes.
    assert {p.exit_layer for p in classifier.predict(texts, threshold=0.2)} <= {1, 2}
    classifier.threshold = 0.2
    assert classifier.criterion == Entropy(0.2, growth=8.0)
    assert classifier.growth == 8.0


def test_a_row_deep_in_a_long_list_is_named(classifier: Classifier) -> None:
    with pytest.raises(DataError, match="Row 5000 is a int"):
        classifier.predict(["good"] * 5000 + [3])  # type: ignore[list-item]


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
def test_a_bad_threshold_is_refused(classifier: Classifier, bad: float) -> None:
    with pytest.raises(ConfigError, match="entropy threshold"):
        classifier.predict(["good film"], threshold=bad)
    with pytest.raises(ConfigError, match="entropy threshold"):
        classifier.threshold = bad
    assert classifier.threshold == 0.5


def test_threads_are_for_the_call_alone(classifier: Classifier) -> None:
    texts = some_texts()
    before = torch.get_num_threads()
    expected = classifier.predict(texts)
    seen: list[int] = []
    layer = next(m for m in classifier.model.modules() if isinstance(m, EncoderLayer))
    layer.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    for threads in (1, 2, 3):
        seen.clear()
        assert_same(classifier.predict(texts, threads=threads), expected)
        assert set(seen) == {threads}
        assert torch.get_num_threads() == before
    stream = classifier.stream(texts, threads=before + 1)
    next(stream)
    assert torch.get_num_threads() == before  # between two answers the caller has its own
    with pytest.raises(ConfigError, match="threads must be at least 1; got 0"):
        classifier.predict(texts, threads=0)
    with pytest.raises(DataError):
        classifier.predict(["fine", 3], threads=before + 1)  # type: ignore[list-item]
    layer.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        classifier.predict(texts, threads=before + 1)
    assert torch.get_num_threads() == before


def test_threads_of_a_call_do_not_stay_with_threads_begun_meanwhile(directory: Path) -> None:
    # To torch a count that one thread sets is the one that later threads begin with.
    def of_a_new_thread() -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    before = of_a_new_thread()
    workers: dict[str, tuple[threading.Thread, threading.Event]] = {}
    for name, threads in (("with", before + 2), ("without", None), ("more", before + 3)):
        classifier = load(directory)
        arrived, may_go = threading.Event(), threading.Event()

        def wait(
            *_: object, arrived: threading.Event = arrived, may_go: threading.Event = may_go
        ) -> None:
            arrived.set()
            may_go.wait(30)

        layer = next(m for m in classifier.model.modules() if isinstance(m, EncoderLayer))
        layer.register_forward_hook(wait)
        worker = threading.Thread(
            target=classifier.predict, args=(["good film"],), kwargs={"threads": threads}
        )
        worker.start()
        assert arrived.wait(30)
        workers[name] = worker, may_go
    for worker, may_go in workers.values():  # the one with threads of its own is done first
        may_go.set()
        worker.join()
    assert of_a_new_thread() == before


def test_a_stream_reads_as_it_is_asked(classifier: Classifier) -> None:
    texts = some_texts(50)
    expected = classifier.predict(texts)
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        for text in itertools.cycle(texts):
            read += 1
            yield text

    stream = classifier.stream(endless())
    assert read == 0
    first = [next(stream)]
    assert read <= 4096 * 2
    rest = itertools.islice(stream, 6000)  # over the first window's end
    assert_same([*first, *rest], [expected[i % 50] for i in range(6001)])
    assert read <= 6001 + 4096 * 2


def test_threads_with_thresholds_of_their_own(classifier: Classifier) -> None:
    texts = some_texts(80)
    thresholds = [0.0, 0.1, 0.3, 0.4, 0.5, 0.7, 0.9, 2.0]
    serial = {t: classifier.predict(texts, threshold=t) for t in thresholds}
    before = torch.get_num_threads()
    faults: list[str] = []
    gate = threading.Barrier(len(thresholds))

    def work(threshold: float, threads: int | None) -> None:
        gate.wait()
        for _ in range(4):
            found = classifier.predict(texts, threshold=threshold, threads=threads)
            for one, two in zip(found, serial[threshold], strict=True):
                same = (one.label, one.exit_layer) == (two.label, two.exit_layer)
                if not same or abs(one.probability - two.probability) > 1e-5:
                    faults.append(f"{threshold}: {one} is not {two}")

    workers = [
        threading.Thread(target=work, args=(t, [None, None, 1, 2][i % 4]))
        for i, t in enumerate(thresholds)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not faults
    assert torch.get_num_threads() == before
    assert classifier.threshold == 0.5


def test_no_texts_no_predictions(classifier: Classifier) -> None:
    assert classifier.predict([]) == []
    assert classifier.predict(iter(())) == []


def test_empty_and_long_texts_have_predictions(classifier: Classifier) -> None:
    texts = ["", " ", "unheard-of", "good " * 500]
    assert_same(classifier.predict(texts), [expected_of(classifier, t, 0.5) for t in texts])


def test_a_text_in_place_of_a_list_is_refused(classifier: Classifier) -> None:
    with pytest.raises(DataError, match=r"pass \[text\]"):
        classifier.predict("good film")
    with pytest.raises(DataError, match=r"pass \[text\]"):
        next(classifier.stream("good film"))


@pytest.mark.parametrize("row", [3, None, b"good", ["good", "film"], ("a", "b", "c")])
def test_a_row_that_is_no_text_is_refused(classifier: Classifier, row: object) -> None:
    with pytest.raises(DataError, match="Row 1 is a"):
        classifier.predict(["good film", row])  # type: ignore[list-item]


def test_save_and_load(classifier: Classifier, tmp_path: Path) -> None:
    texts = some_texts()
    classifier.threshold = 0.7
    classifier.save(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    again = load(tmp_path / "saved")
    assert again.labels == ["bad", "so-so", "good"]
    assert again.threshold == 0.7
    assert again.tokenizer.max_length == classifier.tokenizer.max_length == 64
    assert_same(again.predict(texts), classifier.predict(texts))


def test_a_save_that_fails_leaves_what_was_there(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "saved"
    classifier.save(target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    classifier.threshold = 0.7

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tokenizer, "write_files", no_space)
    with pytest.raises(OSError, match="No space"):
        classifier.save(target)
    with pytest.raises(OSError, match="No space"):
        classifier.save(tmp_path / "other")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_max_length_of_load(directory: Path) -> None:
    short = load(directory, max_length=4)
    one, two = short.predict(["good film", "good film bad plot"])
    assert one == two
    with pytest.raises(DataError, match="max_length"):
        load(directory, max_length=2)


def test_rows_end_where_positions_do_that_are_numbered_from_padding(tmp_path: Path) -> None:
    words = ["<s>", "<pad>", "</s>", "[UNK]", *WORDS, "<mask>"]
    config = MPNetConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=12,
    )
    add_exits(MPNetForSequenceClassification(config)).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(words), "utf-8")
    found = load(tmp_path)
    assert found.tokenizer.max_length == 10
    assert len(found.predict(["good " * 50])) == 1
    with pytest.raises(ConfigError, match="max_length 11 is more than the 10 positions"):
        load(tmp_path, max_length=11)


def test_an_untrained_directory_is_refused(tmp_path: Path) -> None:
    # With the error alone: a warning beforehand that its weights are new would say it twice.
    with pytest.raises(CheckpointError, match=r"not a trained classifier.*offramp train --model"):
        load(write_body(tmp_path / "body"), task="classify")


def test_directories_that_are_no_model(tmp_path: Path, directory: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        load(tmp_path / "absent")
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match="'llama'"):
        load(tmp_path)
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    with pytest.raises(ModelNotFoundError, match="holds no weights: expected model"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
    with pytest.raises(ModelNotFoundError, match="has no tokenizer"):
        load(tmp_path)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path: Path) -> None:
    write_classifier(tmp_path / "model", vocab_size=10)
    with pytest.raises(ConfigError, match="22 ids and the model embeds 10"):
        load(tmp_path / "model")


def test_a_model_of_one_output_is_refused(directory: Path) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config(num_labels=1))
    with pytest.raises(ConfigError, match="one of two labels or more"):
        Classifier(model, Tokenizer.from_pretrained(directory))


def test_a_model_without_exits_predicts_at_full_depth(tmp_path: Path) -> None:
    torch.manual_seed(0)
    BertForSequenceClassification(tiny_config(num_labels=2)).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    classifier = load(tmp_path)
    found = classifier.predict(["good film", "bad"])
    assert [p.exit_layer for p in found] == [3, 3]
    assert {p.label for p in found} <= {"LABEL_0", "LABEL_1"}
    with pytest.raises(ConfigError, match="has no exits"):
        _ = classifier.threshold
    with pytest.raises(ConfigError, match="has no exits"):
        classifier.threshold = 0.3
    with pytest.raises(ConfigError, match="has no exits"):
        classifier.predict(["good film"], threshold=0.3)


def test_another_criterion_has_no_threshold(classifier: Classifier) -> None:
    class Never(Entropy):
        pass

    classifier.criterion = Never(0.0)
    assert classifier.criterion == Never(0.0)
    assert {p.exit_layer for p in classifier.predict(some_texts(9))} == {3}

    class Other(Criterion):  # only its type matters here
        name = "other"
        update = to_dict = from_dict = None  # type: ignore[assignment]

    classifier.criterion = Other()
    with pytest.raises(ConfigError, match="has no threshold of an entropy"):
        _ = classifier.threshold


def test_predictions_are_plain_values(classifier: Classifier) -> None:
    (prediction,) = classifier.predict([toy_rows(1)[0][0]])
    assert json.loads(json.dumps(dataclasses.asdict(prediction))) == {
        "label": prediction.label,
        "probability": prediction.probability,
        "exit_layer": prediction.exit_layer,
    }
    assert 1 / 3 <= prediction.probability <= 1


def test_weights_that_are_no_numbers_give_no_predictions(directory: Path) -> None:
    classifier = load(directory)
    with torch.no_grad():
        classifier.model.bert.embeddings.word_embeddings.weight[7] = math.nan  # type: ignore[union-attr]
    with (
        pytest.warns(NaNLogitsWarning),
        pytest.raises(CheckpointError, match="answers with NaN"),
    ):
        classifier.predict([" ".join(WORDS)])
