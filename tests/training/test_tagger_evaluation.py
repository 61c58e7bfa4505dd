"""What is said of a tagger: scores are those of its tags, logits those of transformers."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
import torch
from tagged_data import tagged_table
from task_models import TAGS, write_model

from offramp.errors import ConfigError, DataError, OfframpError
from offramp.models.bert import BertForTokenClassification, BertModel
from offramp.runner.loading import load
from offramp.text.tagged import TaggedTable
from offramp.training.entities import entity_f1
from offramp.training.peers import transformers_model, transformers_tokens
from offramp.training.tagger_evaluation import TaggerEvaluation, evaluate_tagger


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("evaluated") / "tagger"
    return write_model(place, BertForTokenClassification, id2label=dict(enumerate(TAGS)))


@pytest.fixture(scope="module")
def evaluation(directory: Path) -> TaggerEvaluation:
    return evaluate_tagger(
        directory, tagged_table(50, 3), rounds=2, timing_rows=12, transformers=True
    )


def test_scores_are_those_of_a_recount(directory: Path, evaluation: TaggerEvaluation) -> None:
    data = tagged_table(50, 3)
    assert data.tags is not None
    found = load(directory, task="tag").predict_words(data.words)
    assert evaluation.entities == entity_f1(data.tags, found)
    gold, said = (list(chain.from_iterable(rows)) for rows in (data.tags, found))
    right = [own == other for own, other in zip(gold, said, strict=True)]
    assert evaluation.accuracy == pytest.approx(sum(right) / len(right))
    assert (evaluation.rows, evaluation.words) == (50, len(right))


def test_speeds(directory: Path, evaluation: TaggerEvaluation) -> None:
    assert set(evaluation.seconds) == {"offramp", "transformers, sorted"}
    assert evaluation.speed is not None
    assert 0 < evaluation.speed.low <= evaluation.speed.median <= evaluation.speed.high
    assert (evaluation.timed_rows, evaluation.rounds) == (12, 2)
    for name, seconds in evaluation.seconds.items():
        assert evaluation.rows_per_second[name] == pytest.approx(12 / seconds)
    assert evaluation.transformers_difference is not None
    assert 0 <= evaluation.transformers_difference < 1e-4
    alone = evaluate_tagger(directory, tagged_table(9), rounds=1, transformers=False)
    assert (alone.speed, alone.transformers_difference) == (None, None)
    assert set(alone.rows_per_second) == {"offramp"}


def test_it_is_json(evaluation: TaggerEvaluation) -> None:
    values = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert values["entities"]["f1"] == evaluation.entities.f1
    assert values["entities"]["by_type"]["PER"]["support"] > 0
    assert values["rows_per_second"] == evaluation.rows_per_second
    assert values["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize("sort", [False, True])
def test_transformers_logits_come_in_the_order_of_rows(sort: bool, directory: Path) -> None:
    tagger = load(directory, task="tag")
    rows = tagger.tokenizer.encode_words(tagged_table(40, 8).words)
    peer = transformers_model(directory, "AutoModelForTokenClassification")
    found = transformers_tokens(peer, rows, sort=sort, batch_size=8)()
    for row, logits_LC in zip(rows, found, strict=True):
        with torch.inference_mode():
            alone = tagger.model(torch.tensor(row.ids)[None]).logits[0]
        torch.testing.assert_close(logits_LC, alone, atol=1e-4, rtol=1e-4)


def test_bad_input_is_refused(directory: Path, tmp_path: Path) -> None:
    odd = TaggedTable("odd.jsonl", [["a"], ["b"]], [["O"], ["B-PAR"]])
    with pytest.raises(DataError, match=r"odd\.jsonl, sentence 2: the tag 'B-PAR'"):
        evaluate_tagger(directory, odd)
    for changes in ({"rounds": 0}, {"timing_rows": 0}):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            evaluate_tagger(directory, tagged_table(5), **changes)  # type: ignore[arg-type]
    write_model(tmp_path / "body", BertModel)
    with pytest.raises(OfframpError, match=r"not a trained tagger.*--task tag"):
        evaluate_tagger(tmp_path / "body", tagged_table(5))
