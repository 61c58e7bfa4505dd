"""Make tests/text/golden/sentencepiece: small models of SentencePiece, and what it makes of texts.

    pip install sentencepiece==0.2.3 && python tests/text/golden/make_sentencepiece.py

The models replace a few letters by rules of their own: the usual rules would take 240 kB a model.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import sentencepiece

HERE = Path(__file__).resolve().parent / "sentencepiece"

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "a small film with a large heart , and a quiet one",
    "she sells sea shells by the sea shore",
    "le garçon a mangé une pêche près du château",
    "où est passée la fenêtre de l'été dernier ?",
    "the lower the newer the wider the better",
    "prices were 10, 20, 30, and 1,000 in 1999",
    "漢字とかなの文 中文的句子",
    "running , jumping , singing and resting all day long",
    "he said it , and she heard it , and they wrote it down",
] * 20

RULES = {  # what is replaced -> by what
    "\uff21": "A",
    "\ufb01": "fi",
    "\u00bd": "1/2",
    "\u00a0": " ",
    "\u3000": " ",
    "\t": " ",
    "\u0130": "i\u0307",
    "e\u0301": "é",
    "\u2026": "...",
    "\u00ad": "",
}

TEXTS = [
    "the quick brown fox",
    "  spaces   around and   between  ",
    "",
    " ",
    "garçon château été où",
    "e\u0301te\u0301 and no accent",
    "unknown: \u0436\u0434 \U0001f600\U0001f600 end",
    "\ufb01lm \u00bd \uff21\uff21 \u2026 a\u00adb\u00a0c\u3000d\te",
    "漢字 中文漢",
    "10, 20, and 9, or 1,000,",
    "lowest newest widest shellshore",
    'it\'s "quoted" here',
]

MODELS: dict[str, dict[str, Any]] = {
    "unigram": {"model_type": "unigram", "vocab_size": 120},
    "bpe": {"model_type": "bpe", "vocab_size": 180},
    "bpe_bytes": {
        "model_type": "bpe",
        "vocab_size": 420,
        "byte_fallback": True,
        "user_defined_symbols": ["<sep>"],
    },
    "unigram_bytes": {"model_type": "unigram", "vocab_size": 400, "byte_fallback": True},
    "albert": {
        "model_type": "unigram",
        "vocab_size": 120,
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
        "pad_id": 0,
        "unk_id": 1,
        "bos_id": -1,
        "eos_id": -1,
    },
    "no_prefix": {"model_type": "unigram", "vocab_size": 120, "add_dummy_prefix": False},
    "keep_spaces": {"model_type": "unigram", "vocab_size": 120, "remove_extra_whitespaces": False},
}


def main() -> None:
    HERE.mkdir(exist_ok=True)
    expected = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # the model keeps the rules' path
        Path("rules.tsv").write_text(
            "".join(f"{_codes(old)}\t{_codes(new)}\n" for old, new in RULES.items()), "utf-8"
        )
        for name, options in MODELS.items():
            made = io.BytesIO()
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(CORPUS),
                model_writer=made,
                normalization_rule_tsv="rules.tsv",
                num_threads=1,
                hard_vocab_limit=False,  # what is asked for is the most
                minloglevel=2,
                **options,
            )
            (HERE / f"{name}.model").write_bytes(made.getvalue())
            processor = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
            size = processor.get_piece_size()
            expected[name] = {
                "pieces": [processor.id_to_piece(i) for i in range(size)],
                "scores": [processor.get_score(i) for i in range(size)],
                "unknown": processor.unk_id(),
                "control": [i for i in range(size) if processor.is_control(i)],
                "texts": [[text, processor.encode(text)] for text in TEXTS],
            }
    content = json.dumps(expected, ensure_ascii=True, separators=(",", ":")) + "\n"
    (HERE / "expected.json").write_text(content, "utf-8")


def _codes(text: str) -> str:
    return " ".join(f"{ord(letter):X}" for letter in text)


if __name__ == "__main__":
    main()
