"""DistilBERT's built-in names."""

from __future__ import annotations

from offramp.models.builtin.table import ENGLISH, ENGLISH_CASED, Settings, family, labels


def _distilbert(vocabulary: int) -> Settings:
    """Its files have names of their own for the sizes."""
    return {"vocab_size": vocabulary, "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072}


_SST_2 = {**_distilbert(ENGLISH), **labels("NEGATIVE", "POSITIVE")}

DISTILBERT = family(
    "distilbert",
    [
        ("distilbert-base-uncased", "distilbert", _distilbert(ENGLISH)),
        ("distilbert-base-cased", "distilbert", _distilbert(ENGLISH_CASED)),
        ("distilbert-base-multilingual-cased", "distilbert", _distilbert(119547)),
        ("distilbert-base-uncased-finetuned-sst-2-english", "distilbert", _SST_2),
        ("distilbert-base-uncased-distilled-squad", "distilbert", _distilbert(ENGLISH)),
    ],
)
