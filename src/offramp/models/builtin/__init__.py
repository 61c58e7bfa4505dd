"""The built-in names: well-known models, where their files are, and their configurations.

Numbers are those of each repository's config.json; what is the same as the configuration class's
default may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from offramp.hub.names import Source
from offramp.models.builtin.albert import ALBERT
from offramp.models.builtin.bert import BERT
from offramp.models.builtin.distilbert import DISTILBERT
from offramp.models.builtin.electra import ELECTRA
from offramp.models.builtin.ernie import ERNIE
from offramp.models.builtin.gpt2 import GPT2
from offramp.models.builtin.mpnet import MPNET
from offramp.models.builtin.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from offramp.models.builtin.table import BuiltIn, Settings, read_only, writable

FAMILIES: Mapping[str, BuiltIn] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "camembert": CAMEMBERT,
    "albert": ALBERT,
    "ernie": ERNIE,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "mpnet": MPNET,
    "gpt2": GPT2,
}
"""model_type: the family's names."""


def all_sources() -> dict[str, Source]:
    """Every built-in name of every family."""
    return {name: source for family in FAMILIES.values() for name, source in family.sources.items()}


__all__ = [
    "ALBERT",
    "BERT",
    "CAMEMBERT",
    "DISTILBERT",
    "ELECTRA",
    "ERNIE",
    "FAMILIES",
    "GPT2",
    "MPNET",
    "ROBERTA",
    "XLM_ROBERTA",
    "BuiltIn",
    "Settings",
    "all_sources",
    "read_only",
    "writable",
]
