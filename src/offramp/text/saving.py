"""A tokenizer's two files, as transformers reads them too."""

from __future__ import annotations

import json
from typing import Any

import tokenizers

from offramp.text.charsmap import normalizer_charsmap
from offramp.text.dress import Spaces, dress, expected_model
from offramp.text.families import FAMILIES, ROLES, Family, family_name
from offramp.text.opening import FILE
from offramp.text.special import CONFIG_FILE, role_token, special_tokens

_ANY_CLASS = "PreTrainedTokenizerFast"
"""The class that takes tokenizer.json for what it says, in transformers 4 and 5."""

_NOT_WRITTEN = (
    "added_tokens_decoder",  # in tokenizer.json
    "additional_special_tokens",
    "auto_map",  # code of another repository
    "extra_special_tokens",
    "merges_file",
    "name_or_path",
    "special_tokens_map_file",
    "tokenizer_file",
    "vocab_file",
)


def tokenizer_files(tokenizer: tokenizers.Tokenizer, settings: dict[str, Any]) -> dict[str, bytes]:
    """The contents of tokenizer.json and tokenizer_config.json."""
    plain = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    plain.no_truncation()  # the limit travels in the settings, where other readers look
    roles = {role: role_token(tokenizer, settings, role) for role in ROLES}
    written = {k: v for k, v in settings.items() if k not in (*_NOT_WRITTEN, *ROLES)}
    written |= {role: token for role, token in roles.items() if token is not None}
    written["tokenizer_class"] = _class(plain, settings)
    text = json.dumps(written, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return {FILE: plain.to_str(pretty=True).encode(), CONFIG_FILE: text.encode()}


def _class(tokenizer: tokenizers.Tokenizer, settings: dict[str, Any]) -> str:
    """The class of transformers that gives the same ids.

    Since version 5 a family's class takes the vocabulary alone from tokenizer.json, and makes what
    is around it anew: it is named where that is what is here already.
    """
    name = family_name(settings, {})
    if name is not None and _is_plain(tokenizer, FAMILIES[name], settings):
        return FAMILIES[name].tokenizer_class
    return _ANY_CLASS


def _is_plain(tokenizer: tokenizers.Tokenizer, family: Family, settings: dict[str, Any]) -> bool:
    special = special_tokens(family, settings)
    model = json.loads(tokenizer.model.__getstate__())
    model = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    unknown = tokenizer.token_to_id(special["unk_token"])
    spaces = Spaces(normalizer_charsmap(tokenizer))
    return (
        unknown is not None
        and model == expected_model(family, special, unknown)
        and dress(family, special, tokenizer.token_to_id, settings, spaces).is_worn_by(tokenizer)
    )
