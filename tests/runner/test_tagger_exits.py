"""A tagger whose texts leave early: with the tags that they have alone, however many windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from task_models import TAGS, some_texts, write_model

import offramp
from offramp.errors import ConfigError
from offramp.exits.attach import add_exits, exits_of, logits_by_depth
from offramp.exits.criteria import Entropy, MaxProbability, Patience, RegressionPatience
from offramp.models.bert import BertForTokenClassification
from offramp.models.inputs import Inputs
from offramp.runner.loading import load
from offramp.runner.progress import Progress
from offramp.runner.tagger import Tagger
from offramp.runner.windows import words_of

Opened = Callable[..., Tagger]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exiting") / "model"
    changes = {"id2label": dict(enumerate(TAGS)), "num_hidden_layers": 4}
    write_model(place, BertForTokenClassification, **changes)
    tagger = load(place, task="tag")
    torch.manual_seed(1)
    add_exits(tagger.model, criterion=Entropy(0.5))
    exits = exits_of(tagger.model)
    with torch.no_grad():
        exits.ramp(1).classifier.weight.mul_(4)
    for depth in exits.depths[1:]:
        exits.ramp(depth).load_state_dict(exits.ramp(1).state_dict())
    tagger.save(place)
    return place


@pytest.fixture
def tagger(directory: Path) -> Tagger:
    return load(directory, task="tag")


def layers_of(tagger: Tagger, texts: list[str], **settings: float) -> list[int]:
    """The layers that each text passed."""
    seen: list[Progress] = []
    found = []
    for text in texts:
        list(tagger.stream([text], progress=seen.append, **settings))  # type: ignore[arg-type]
        found.append(seen[-1].layers)
    return found


def test_the_first_token_of_each_word_is_asked_by_hand(tagger: Tagger) -> None:
    tagger.criterion = MaxProbability(0.8)
    # Words with a comma are several in a text.
    words = [text.replace(",", "").replace("-", "").split() for text in some_texts(40)]
    met = set()
    for row, tags in zip(words, tagger.predict_words(words), strict=True):
        (tokens,) = tagger.tokenizer.encode_words([row])
        firsts = [word.token for word in words_of([tokens]).values()]
        with torch.inference_mode():
            by_depth = logits_by_depth(tagger.model, Inputs.from_rows([tokens.ids], [tokens.types]))
        least = {depth: x[firsts].softmax(-1).amax(-1).min() for depth, x in by_depth.items()}
        depth = next(depth for depth in by_depth if depth == 4 or least[depth] > 0.8)
        assert tags == [TAGS[number] for number in by_depth[depth][firsts].argmax(-1).tolist()]
        met.add(depth)
        assert layers_of(tagger, [" ".join(row)]) == [depth]
    assert len(met) > 2


@pytest.mark.parametrize("max_length", [10, None])
@pytest.mark.parametrize(
    "criterion", [Entropy(0.5), MaxProbability(0.8), Patience(1), Entropy(0.4, 1.2)], ids=str
)
def test_together_as_alone(
    directory: Path, criterion: offramp.Criterion, max_length: int | None
) -> None:
    tagger = load(directory, task="tag", max_length=max_length)
    tagger.criterion = criterion
    texts = some_texts(50, seed=2, longest=20)
    seen: list[Progress] = []
    found = list(tagger.stream(texts, progress=seen.append))
    for text, entities in zip(texts, found, strict=True):
        (alone,) = tagger.predict([text])
        assert [(e.label, e.start, e.end) for e in entities] == [
            (e.label, e.start, e.end) for e in alone
        ]
        assert [e.probability for e in entities] == pytest.approx(
            [e.probability for e in alone], abs=1e-4
        )
    assert seen[-1].layers == sum(layers_of(tagger, texts))
    assert 1 <= seen[-1].mean_layers < 4 or criterion == Patience(1)
    rows = [text.split() for text in texts]
    assert tagger.predict_words(rows) == [tagger.predict_words([row])[0] for row in rows]


def test_a_long_text_passed_as_many_layers_as_its_deepest_window(directory: Path) -> None:
    tagger = load(directory, task="tag", max_length=12)
    text = " ".join(some_texts(6, seed=4, longest=12))
    windows = tagger.tokenizer.tokenize([text], stride=3)
    assert len(windows) > 3
    words = words_of(windows)
    depths = []
    for number, window in enumerate(windows):
        own = [word.token for word in words.values() if word.window == number]
        with torch.inference_mode():
            by_depth = logits_by_depth(tagger.model, Inputs.from_rows([window.ids], [window.types]))
        for depth, logits_LC in by_depth.items():
            p_WC = logits_LC[own].double().softmax(-1)
            if depth == 4 or not own or float(-(p_WC * p_WC.log()).sum(-1).amin()) < 0.5:
                depths.append(depth)
                break
    assert layers_of(tagger, [text]) == [max(depths)]
    assert min(depths) < max(depths)


def test_thresholds(tagger: Tagger) -> None:
    texts = some_texts(30)
    assert tagger.threshold == 0.5
    assert layers_of(tagger, texts, threshold=0) == [4] * 30
    assert layers_of(tagger, texts, threshold=9) == [1] * 30
    early = tagger.predict(texts)
    tagger.threshold = 0
    full = tagger.predict(texts)
    assert full != early
    assert tagger.predict(texts, threshold=0.5) == early
    words = [text.split() for text in texts]
    assert tagger.predict_words(words, threshold=0.5) != tagger.predict_words(words)
    del tagger.model.exits  # type: ignore[attr-defined]
    assert tagger.predict(texts) == full


def test_a_call_keeps_what_it_began_with(tagger: Tagger) -> None:
    texts = some_texts(30)
    before = tagger.predict(texts)
    begun = tagger.stream(texts)
    tagger.threshold = 0
    assert list(begun) == before


def test_nothing_to_tag(tagger: Tagger) -> None:
    assert tagger.predict(["", " ", "oslo"])[:2] == [[], []]
    assert layers_of(tagger, [""]) == [1]
    assert tagger.predict_words([[], ["\u200d"]]) == [[], ["O"]]


def test_what_is_refused(tagger: Tagger) -> None:
    with pytest.raises(ConfigError, match="numbers"):
        tagger.criterion = RegressionPatience(1, 0.1)
    tagger.criterion = Patience(2)
    with pytest.raises(ConfigError, match="no threshold of an entropy"):
        tagger.predict(["oslo"], threshold=0.3)
    del tagger.model.exits  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="has no exits"):
        tagger.predict(["oslo"], threshold=0.3)


def test_save_and_load(tagger: Tagger, tmp_path: Path) -> None:
    tagger.criterion = MaxProbability(0.7)
    tagger.save(tmp_path / "saved")
    again = offramp.load(tmp_path / "saved")
    assert isinstance(again, Tagger)
    assert again.criterion == MaxProbability(0.7)
    texts = some_texts(20)
    assert again.predict(texts) == tagger.predict(texts)
    assert layers_of(again, texts) == layers_of(tagger, texts)


def test_its_tags_at_full_depth_are_transformers(tagger: Tagger, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tagger.save(tmp_path / "saved")
    theirs = transformers.BertForTokenClassification.from_pretrained(tmp_path / "saved").eval()
    words = [text.split() for text in some_texts(20)]
    for row, tags in zip(words, tagger.predict_words(words, threshold=0), strict=True):
        (tokens,) = tagger.tokenizer.encode_words([row])
        with torch.inference_mode():
            best_L = theirs(torch.from_numpy(tokens.ids)[None]).logits[0].argmax(-1).tolist()
        firsts = [word.token for word in words_of([tokens]).values()]
        assert tags == [TAGS[best_L[first]] for first in firsts]
