"""Special tokens: which there are, from the files that name them, and what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from offramp.errors import DataError
from offramp.text.families import FAMILIES, ROLES, Family, family_name
from offramp.text.files import read_json

CONFIG_FILE = "tokenizer_config.json"
_MAP_FILE = "special_tokens_map.json"
_ADDED_FILE = "added_tokens.json"
_DECODER = "added_tokens_decoder"
_EXTRA = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
_MOST_ADDED = 100_000


def read_settings(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json, and what the older files beside it say of special tokens.

    Raises DataError for files that are not sound.
    """
    settings = read_json(directory / CONFIG_FILE)
    named = {k: v for k, v in read_json(directory / _MAP_FILE).items() if v is not None}
    added = read_json(directory / _ADDED_FILE)
    if _DECODER in settings:  # then it is the newer one
        settings = {**named, **settings}
    else:
        settings = {**settings, **named}
        special = {content(token) for token in _named(settings)}
        settings |= (
            {
                _DECODER: {
                    str(i): {"content": token, "special": token in special}
                    for token, i in added.items()
                }
            }
            if added
            else {}
        )
    decoder = settings.get(_DECODER, {})
    if not isinstance(decoder, dict) or not all(str(i).isdecimal() for i in decoder):
        raise DataError(f"{directory}: {_DECODER} is not an object of ids and tokens.")
    if len(decoder) > _MOST_ADDED:
        raise DataError(f"{directory}: {len(decoder)} added tokens; at most {_MOST_ADDED}.")
    return settings


def special_tokens(family: Family, settings: Mapping[str, Any]) -> dict[str, str]:
    """Role -> token: what the settings say, or else the family's own."""
    said = {role: settings[role] for role in ROLES if settings.get(role) is not None}
    return {**family.special, **{role: content(token) for role, token in said.items()}}


def add_special(
    tokenizer: tokenizers.Tokenizer, family: Family, settings: Mapping[str, Any]
) -> None:
    """Make a tokenizer know the special tokens of its family and its settings.

    A token of the family that the vocabulary lacks is left out, for the model has no row for it;
    one that the settings name is added. DataError where a token cannot have the id that it is to.
    """
    tokens: dict[str, tokenizers.AddedToken] = {}
    for role, token in special_tokens(family, settings).items():
        if settings.get(role) is not None or tokenizer.token_to_id(token) is not None:
            takes_space = role == "mask_token" and family.mask_takes_space
            tokens[token] = _added(settings.get(role) or token, takes_space)
    for token in family.extra:
        if tokenizer.token_to_id(token) is not None:
            tokens[token] = _added(token)
    for said in _named(settings):
        tokens.setdefault(content(said), _added(said))
    decoder = settings.get(_DECODER, {})
    by_id = {int(i): decoder[i] for i in decoder}
    for i in sorted(by_id):
        special = isinstance(by_id[i], dict) and by_id[i].get("special") is True
        known = content(by_id[i])
        if known not in tokens or (isinstance(by_id[i], dict) and "lstrip" in by_id[i]):
            tokens[known] = _added(by_id[i], special=special or known in tokens)
    # In the order of their ids, which is the order in which new ones are numbered.
    wanted = {content(token): i for i, token in by_id.items()}
    ordered = sorted(tokens, key=lambda token: wanted.get(token, _MOST_ADDED * 100))
    tokenizer.add_tokens([tokens[token] for token in ordered])  # one by one takes their square
    for token in ordered:
        if token in wanted and tokenizer.token_to_id(token) != wanted[token]:
            raise DataError(
                f"The added token {token!r} is to have the id {wanted[token]}, and has "
                f"{tokenizer.token_to_id(token)} in the vocabulary. Are {_ADDED_FILE} or "
                f"{CONFIG_FILE} another model's?"
            )


def role_token(
    tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any], role: str
) -> str | None:
    """The token of a role, where the tokenizer has it: the settings', or else a usual one."""
    said = settings.get(role)
    name = family_name(settings, {})
    families = ("bert", "roberta") if name is None else (name,)
    usual = [FAMILIES[family].special.get(role, "") for family in families]
    for token in usual if said is None else [content(said)]:
        if token and tokenizer.token_to_id(token) is not None:
            return token
    return None


def content(token: Any) -> str:
    """A special token as older files (text) and newer ones (an object) write it."""
    said = token.get("content") if isinstance(token, dict) else token
    # JSON can spell half of a surrogate pair, which the library does not take for a text.
    if not isinstance(said, str) or not said or any("\ud800" <= c <= "\udfff" for c in said):
        raise DataError(f"{CONFIG_FILE} has the special token {token!r}; expected a text.")
    return said


def _named(settings: Mapping[str, Any]) -> list[Any]:
    """The special tokens that settings name, as they lie there."""
    named = [settings[role] for role in ROLES if settings.get(role) is not None]
    for key in _EXTRA:
        extra = settings.get(key)
        if isinstance(extra, (dict, list)):
            named += extra.values() if isinstance(extra, dict) else extra
    return named


def _added(token: Any, takes_space: bool = False, *, special: bool = True) -> tokenizers.AddedToken:
    flags = {"lstrip": takes_space, "normalized": not special}
    if isinstance(token, dict):
        flags |= {flag: token[flag] for flag in _FLAGS if isinstance(token.get(flag), bool)}
    return tokenizers.AddedToken(content(token), special=special, **flags)
