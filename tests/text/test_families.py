"""Every family's files give transformers' ids and offsets, and go back to it through a save."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers
from family_kit import FAMILIES, GOLDEN, PAIRS, TEXTS, family_directory, reference

from offramp.errors import DataError, ModelNotFoundError, UnsupportedError
from offramp.text.tokenizer import Tokenizer

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def assert_same(
    ours: Tokenizer, theirs: transformers.PreTrainedTokenizerFast, texts: list[str]
) -> None:
    """The same ids, offsets and words, of texts and of pairs."""
    ours.max_length = 40
    common = {"truncation": True, "max_length": 40, "return_offsets_mapping": True}
    for rows in (texts, PAIRS):
        said = theirs([list(r) if isinstance(r, tuple) else r for r in rows], **common)
        assert len(said["input_ids"]) == len(rows)
        for i, (tokens, plain) in enumerate(
            zip(ours.tokenize(rows), ours.encode(rows), strict=True)
        ):
            assert tokens.ids.tolist() == plain.ids.tolist() == said["input_ids"][i], rows[i]
            assert tokens.types.tolist() == plain.types.tolist(), rows[i]
            if "token_type_ids" in said:
                assert tokens.types.tolist() == said["token_type_ids"][i], rows[i]
            offsets = [list(pair) for pair in said["offset_mapping"][i]]
            assert tokens.offsets.tolist() == offsets, rows[i]
            for mine, its in (
                (tokens.words, said.word_ids(i)),
                (tokens.texts, said.sequence_ids(i)),
            ):
                assert mine.tolist() == [-1 if n is None else n for n in its], rows[i]
            assert tokens.row == i


@pytest.mark.parametrize("family", FAMILIES)
def test_files_give_what_transformers_gives(family: str, tmp_path: Path) -> None:
    directory = family_directory(family, tmp_path / "model")
    ours, theirs = Tokenizer.from_pretrained(directory), reference(family, directory)
    assert ours.vocab_size == len(theirs)
    assert ours.max_length == 40
    assert (ours.pad_id, ours.mask_id) == (theirs.pad_token_id, theirs.mask_token_id)
    assert ours.mask_token == theirs.mask_token
    assert_same(ours, theirs, TEXTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_opened_by_transformers_and_again(family: str, tmp_path: Path) -> None:
    directory = family_directory(family, tmp_path / "model")
    ours = Tokenizer.from_pretrained(directory)
    ours.save_pretrained(tmp_path / "saved")
    shutil.copy(directory / "config.json", tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    named = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    # The family's own class, by name; distilbert, electra and ernie share BERT's.
    assert named["tokenizer_class"] == type(reference(family, directory)).__name__
    assert theirs.model_max_length == 40
    masked = f"the {ours.mask_token} film"
    assert_same(ours, theirs, [*TEXTS, masked])
    again = Tokenizer.from_pretrained(tmp_path / "saved")
    assert_same(again, theirs, [*TEXTS, masked])
    assert again.max_length == 40
    again.save_pretrained(tmp_path / "twice")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "saved" / name).read_text() == (tmp_path / "twice" / name).read_text()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bert", {"do_lower_case": False}),
        ("mpnet", {"do_lower_case": False, "strip_accents": True}),
        ("roberta", {"add_prefix_space": True}),
        ("roberta", {"trim_offsets": False}),
        ("albert", {"do_lower_case": False}),
        ("albert", {"keep_accents": True}),
        ("electra", {"additional_special_tokens": ["[X]", "[Y]"]}),
        ("xlm-roberta", {"additional_special_tokens": ["<x>"]}),
    ],
    ids=str,
)
def test_settings_are_followed(family: str, settings: dict[str, object], tmp_path: Path) -> None:
    directory = family_directory(family, tmp_path / "model", **settings)
    ours = Tokenizer.from_pretrained(directory)
    texts = [*TEXTS, "a [X] b [Y]", "the <x> e"]
    assert_same(ours, reference(family, directory, **settings), texts)
    ours.save_pretrained(tmp_path / "saved")
    shutil.copy(directory / "config.json", tmp_path / "saved")
    assert_same(ours, transformers.AutoTokenizer.from_pretrained(tmp_path / "saved"), texts)


def test_what_a_familys_class_would_undo_is_saved_under_another(tmp_path: Path) -> None:
    # transformers makes BertTokenizer's steps anew from the settings: these it would not keep.
    directory = family_directory("bert", tmp_path / "model")
    Tokenizer.from_pretrained(directory).save_pretrained(directory)
    parts = json.loads((directory / "tokenizer.json").read_text())
    parts["normalizer"]["lowercase"] = False
    (directory / "tokenizer.json").write_text(json.dumps(parts))
    ours = Tokenizer.from_pretrained(directory)
    ours.save_pretrained(directory)
    named = json.loads((directory / "tokenizer_config.json").read_text())["tokenizer_class"]
    assert named == "PreTrainedTokenizerFast"
    assert_same(ours, transformers.AutoTokenizer.from_pretrained(directory), TEXTS)


def expected(name: str) -> dict[str, object]:
    said: dict[str, dict[str, object]] = json.loads((GOLDEN / "expected.json").read_text())
    return said[name]


@pytest.mark.parametrize("name", [p.stem for p in sorted(GOLDEN.glob("*.model"))])
def test_sentencepiece_itself_gives_the_same_pieces(name: str, tmp_path: Path) -> None:
    # Made by sentencepiece 0.2.3: tests/text/golden/make_sentencepiece.py.
    albert = name == "albert"
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "albert" if albert else "xlm-roberta"})
    )
    flags = {"do_lower_case": False, "keep_accents": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(flags if albert else {}))
    shutil.copy(GOLDEN / f"{name}.model", tmp_path / "spiece.model")
    ours = Tokenizer.from_pretrained(tmp_path)
    said = expected(name)
    for text, ids in said["texts"]:  # type: ignore[attr-defined]
        if not albert:  # fairseq's ids: one more, and 3 for the unknown
            ids = [3 if i == said["unknown"] else i + 1 for i in ids]
        assert ours.encode([text])[0].ids.tolist()[1:-1] == ids, text
    if not albert:
        ours.save_pretrained(tmp_path)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert_same(ours, theirs, TEXTS)


def test_fairseqs_numbers(tmp_path: Path) -> None:
    # Worked by hand from the two libraries' vocabularies: XLM-R moves pieces by one, CamemBERT
    # by four, and both put the mask last.
    pieces = expected("unigram")["pieces"]
    assert isinstance(pieces, list)
    size = len(pieces)
    for family, first, moved, total in (
        ("xlm-roberta", ["<s>", "<pad>", "</s>", "<unk>"], 1, size + 2),
        ("camembert", ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>"], 4, size + 5),
    ):
        ours = Tokenizer.from_pretrained(family_directory(family, tmp_path / family))
        assert [ours.token_to_id(token) for token in first] == [0, 1, 2, 3]
        assert ours.token_to_id(pieces[10]) == 10 + moved
        assert ours.token_to_id(pieces[-1]) == size - 1 + moved
        assert ours.mask_id == total - 1
        assert ours.vocab_size == total


def test_the_mask_of_roberta_stands_for_its_space_too(tmp_path: Path) -> None:
    # As in the published tokenizer.json; transformers 5.23 leaves the space, from vocab.json.
    directory = family_directory("roberta", tmp_path / "model")
    ours = Tokenizer.from_pretrained(directory)
    (with_space,), (without,) = ours.encode(["the <mask>."]), ours.encode(["the<mask>."])
    assert with_space.ids.tolist() == without.ids.tolist()


@pytest.mark.parametrize(
    ("family", "config", "limit"),
    [
        ("roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ("xlm-roberta", {"max_position_embeddings": 514}, 512),
        ("camembert", {"max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ("mpnet", {"max_position_embeddings": 514}, 512),
        ("mpnet", {"max_position_embeddings": 514, "pad_token_id": 0}, 512),
        ("roberta", {"max_position_embeddings": 130, "pad_token_id": 0}, 129),
        ("bert", {"max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ("albert", {"max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ("electra", {"max_position_embeddings": 64, "pad_token_id": 1}, 64),
    ],
)
def test_positions_after_padding_take_from_the_limit(
    family: str, config: dict[str, int], limit: int, tmp_path: Path
) -> None:
    directory = family_directory(family, tmp_path / "model")
    (directory / "config.json").write_text(json.dumps({"model_type": family, **config}))
    assert Tokenizer.from_pretrained(directory).max_length == limit


def test_original_names_and_no_config(tmp_path: Path) -> None:
    directory = family_directory("roberta", tmp_path / "model")
    before = [
        e.ids.tolist() for e in Tokenizer.from_pretrained(directory, max_length=40).encode(TEXTS)
    ]
    (directory / "config.json").unlink()
    (directory / "vocab.json").rename(directory / "encoder.json")
    (directory / "merges.txt").rename(directory / "vocab.bpe")
    after = [
        e.ids.tolist() for e in Tokenizer.from_pretrained(directory, max_length=40).encode(TEXTS)
    ]
    assert before == after


@pytest.mark.parametrize("family", ["bert", "mpnet", "albert"])
def test_the_files_alone_tell_the_family(family: str, tmp_path: Path) -> None:
    directory = family_directory(family, tmp_path / "model")
    before = Tokenizer.from_pretrained(directory).encode(["the film"])[0].ids.tolist()
    (directory / "config.json").unlink()
    assert Tokenizer.from_pretrained(directory).encode(["the film"])[0].ids.tolist() == before


def test_bert_vocabulary_under_robertas_name(tmp_path: Path) -> None:
    # So do the Chinese RoBERTas come.
    directory = family_directory("bert", tmp_path / "model")
    (directory / "config.json").write_text('{"model_type": "roberta"}')
    assert Tokenizer.from_pretrained(directory).encode(["the"])[0].ids.tolist() == [2, 5, 3]


def test_ernies_vocabulary_with_ids(tmp_path: Path) -> None:
    directory = family_directory("ernie", tmp_path / "model")
    before = Tokenizer.from_pretrained(directory).encode(TEXTS)
    tokens = (directory / "vocab.txt").read_text("utf-8").split()
    lines = "".join(f"{token}\t{i}\n" for i, token in enumerate(tokens))
    (directory / "vocab.txt").write_text(lines, "utf-8")
    after = Tokenizer.from_pretrained(directory).encode(TEXTS)
    assert [e.ids.tolist() for e in before] == [e.ids.tolist() for e in after]


def test_older_files_of_special_tokens(tmp_path: Path) -> None:
    directory = family_directory("bert", tmp_path / "model")
    size = Tokenizer.from_pretrained(directory).vocab_size
    (directory / "special_tokens_map.json").write_text(
        json.dumps({"mask_token": "<hide>", "additional_special_tokens": ["<new>"]})
    )
    added = {"<hide>": size, "<new>": size + 1, "Word": size + 2}
    (directory / "added_tokens.json").write_text(json.dumps(added))
    ours = Tokenizer.from_pretrained(directory)
    assert {token: ours.token_to_id(token) for token in added} == added
    assert (ours.mask_token, ours.mask_id) == ("<hide>", size)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    assert_same(ours, theirs, ["the <hide> <new>film Word word", "a<hide>b"])
    (directory / "added_tokens.json").write_text(json.dumps({"<hide>": size + 5}))
    with pytest.raises(DataError, match="to have the id"):
        Tokenizer.from_pretrained(directory)


def test_newer_settings_of_special_tokens(tmp_path: Path) -> None:
    token = {"lstrip": True, "rstrip": False, "single_word": False, "normalized": False}
    size = Tokenizer.from_pretrained(family_directory("bert", tmp_path / "plain")).vocab_size
    decoder = {str(size): {**token, "content": "<new>", "special": True}}
    directory = family_directory("bert", tmp_path / "model", added_tokens_decoder=decoder)
    ours = Tokenizer.from_pretrained(directory)
    assert ours.token_to_id("<new>") == size
    assert_same(ours, transformers.AutoTokenizer.from_pretrained(directory), ["the <new> film"])


@pytest.mark.skipif(not (DATA / "tokenizers").is_dir(), reason="../shared/data is absent")
def test_published_roberta_vocabulary(tmp_path: Path) -> None:
    shutil.copy(
        DATA / "tokenizers" / "roberta" / "roberta-base-vocab.json", tmp_path / "vocab.json"
    )
    shutil.copy(DATA / "tokenizers" / "gpt2" / "vocab.bpe", tmp_path / "merges.txt")
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    ours = Tokenizer.from_pretrained(tmp_path)
    # The ids of "Hello world" that fairseq's README gives.
    assert ours.encode(["Hello world!"])[0].ids.tolist() == [0, 31414, 232, 328, 2]
    assert_same(ours, transformers.AutoTokenizer.from_pretrained(tmp_path), TEXTS)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"vocab\.json with merges\.txt"):
        Tokenizer.from_pretrained(tmp_path)
    shutil.copy(GOLDEN / "unigram.model", tmp_path / "sentencepiece.bpe.model")
    with pytest.raises(DataError, match="XLM-RoBERTa's or CamemBERT's"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "albert"}')
    with pytest.raises(DataError, match=r"\[CLS\] is not in it"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("merges.txt", "a b c\n", "line 1 of merges.txt is not two pieces"),
        ("merges.txt", "ab\n", "line 1 of merges.txt is not two pieces"),
        ("merges.txt", "zzz yyy\n", "byte-level BPE vocabulary"),
        ("vocab.json", "{}", "out of vocabulary"),
        ("vocab.json", '{"<s>": "0"}', "tokens and their ids"),
        ("vocab.json", '{"<s>": -1}', "tokens and their ids"),
        ("vocab.json", "[", "not valid JSON"),
    ],
)
def test_unsound_byte_level_files(name: str, content: str, message: str, tmp_path: Path) -> None:
    directory = family_directory("roberta", tmp_path / "model")
    (directory / name).write_text(content)
    with pytest.raises(DataError, match=message):
        Tokenizer.from_pretrained(directory)


def test_merges_that_are_no_text(tmp_path: Path) -> None:
    directory = family_directory("roberta", tmp_path / "model")
    (directory / "merges.txt").write_bytes(b"a \xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        Tokenizer.from_pretrained(directory)
    assert issubclass(UnsupportedError, NotImplementedError)
