"""Make tests/golden/sentences.json: what sentence-transformers makes of a few texts.

    python tests/golden/make_sentences.py DIRECTORY

DIRECTORY is all-MiniLM-L6-v2. The vectors are of sentence-transformers' own `encode`, so that the
suite can compare with it where it is not installed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import sentence_transformers
import torch

FILE = Path(__file__).with_name("sentences.json")
TEXTS = (
    "The ferry leaves at seven in the morning.",
    "A boat departs early every day.",
    "Wie spät ist es in São Paulo? 🕖",
    "",
    "  Tabs\tand   spaces,\nand a second line.  ",
    "a row that is longer than the model reads, and goes on about it " * 40,
)


def main() -> None:
    model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
    vectors = model.encode(list(TEXTS), batch_size=1)
    lines = [json.dumps([round(float(x), 8) for x in vector]) for vector in vectors]
    head = {
        "sentence_transformers": sentence_transformers.__version__,
        "torch": torch.__version__,
        "texts": TEXTS,
    }
    rows = ",\n".join(lines)
    FILE.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "vectors": [\n{rows}\n]}}\n', "utf-8")


if __name__ == "__main__":
    main()
