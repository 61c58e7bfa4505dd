"""A small directory of each family, as its models come, and texts to try on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, trainers

from offramp.text.sentencepiece import read_sentencepiece

GOLDEN = Path(__file__).resolve().parent / "golden" / "sentencepiece"

WORDS = "the The ##re Paris paris is é É t ##é ##e e . , 漢 漢字 ##字 a b ##b ' s film , ! ? 1 ##0"
CORPUS = [
    "the quick brown fox, and the lazy dog: it's 10 o'clock!",
    "le garçon a mangé une pêche près du château où il était",
    "漢字とかな 中文 русский язык",
    "emoji 😀 😀 and accents e\u0301 e\u0301",
] * 8
TEXTS = [
    "the quick brown fox",
    "  the Paris,  there is.  ",
    "",
    " ",
    "\t\n",
    "garçon château été où",
    "e\u0301te\u0301 o\u0308 combining",
    "😀😀 👩‍👩‍👧 ™ ½ ﬁ",
    "漢字漢 中文, русский",
    "nb\u00a0space zero\u200bwidth soft\u00adhyphen wide\u3000space",
    "10, 20, and 9, or 1,000,",
    "x" * 130,
    "it's -- PUNCTUATION; isn't it?!",
    "ＡＢ ﬁlm İstanbul",
]
PAIRS = [("the fox", "a dog"), ("", "a"), ("the", ""), ("the " * 40, "é"), ("é", "dog " * 40)]

FAMILIES = (
    "bert",
    "distilbert",
    "electra",
    "ernie",
    "mpnet",
    "roberta",
    "albert",
    "xlm-roberta",
    "camembert",
)


def family_directory(family: str, directory: Path, **settings: object) -> Path:
    """The files of a small model of a family, without its weights."""
    directory.mkdir(parents=True)
    positions = 40 if family in ("bert", "distilbert", "electra", "ernie", "albert") else 42
    config = {"model_type": family, "max_position_embeddings": positions}
    (directory / "config.json").write_text(json.dumps(config))
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    if family == "roberta":
        _byte_level(directory)
    elif family in ("xlm-roberta", "camembert"):
        shutil.copy(GOLDEN / "unigram.model", directory / "sentencepiece.bpe.model")
    elif family == "albert":
        shutil.copy(GOLDEN / "albert.model", directory / "spiece.model")
    else:
        special = "<s> <pad> </s> [UNK]" if family == "mpnet" else "[PAD] [UNK] [CLS] [SEP] [MASK]"
        tokens = dict.fromkeys([*special.split(), *WORDS.split()])
        last = ["<mask>"] if family == "mpnet" else []
        (directory / "vocab.txt").write_text("\n".join([*tokens, *last]) + "\n", "utf-8")
    return directory


def _byte_level(directory: Path) -> None:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    model = json.loads(made.to_str())["model"]
    vocabulary = {**model["vocab"], "<mask>": len(model["vocab"])}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (directory / "merges.txt").write_text("#version: 0.2\n" + merges, "utf-8")


def reference(
    family: str, directory: Path, **settings: object
) -> transformers.PreTrainedTokenizerFast:
    """transformers' tokenizer of these files.

    It reads SentencePiece's through packages that are not here: its classes are given what the
    library itself said is in them.
    """
    if family in ("albert", "xlm-roberta", "camembert"):
        name = "albert" if family == "albert" else "unigram"
        said = json.loads((GOLDEN / "expected.json").read_text())[name]
        pieces = list(zip(said["pieces"], said["scores"], strict=True))
        charsmap = read_sentencepiece(GOLDEN / f"{name}.model").charsmap
        if family == "albert":
            # Its published tokenizer.json has 100 taken off the pieces of a number and a comma.
            pieces = [(p, s - 100 if p[-1] == "," and p[-2:-1].isdigit() else s) for p, s in pieces]
            return transformers.AlbertTokenizer(
                vocab=pieces, _spm_precompiled_charsmap=charsmap, **settings
            )
        if family == "camembert":
            head = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"]
            scores = [0.0, 0.0, 0.0, 0.0, -100.0]
            kind, rest = transformers.CamembertTokenizer, pieces[1:]
        else:
            head, scores = ["<s>", "<pad>", "</s>", "<unk>"], [0.0] * 4
            kind, rest = transformers.XLMRobertaTokenizer, pieces[3:]
        vocabulary = [*zip(head, scores, strict=True), *rest, ("<mask>", 0.0)]
        return kind(vocab=vocabulary, _spm_precompiled_charsmap=charsmap, **settings)
    return transformers.AutoTokenizer.from_pretrained(directory)
