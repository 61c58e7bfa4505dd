"""How text is written: the settings of `generate`, from and to generation_config.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from offramp.errors import ConfigError, UnsupportedError, nearest

GENERATION_CONFIG_FILE = "generation_config.json"
DEFAULT_LENGTH = 20
"""Tokens of a row, its prompt counted, where nobody says: transformers' default."""

Ids: TypeAlias = int | list[int] | None


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """How text is written. The names and what they mean are transformers' unless it is said.

    Lengths are in tokens. Raises ConfigError, naming both, for settings that contradict each other.
    """

    max_new_tokens: int | None = None
    """How many are written at most."""
    max_length: int | None = None
    """How many a row has at most, its prompt counted; `max_new_tokens` comes before it."""
    min_new_tokens: int | None = None
    """How many are written before a row may end."""
    min_length: int = 0
    """How many a row has before it may end, its prompt counted."""

    do_sample: bool = False
    """Whether the next token is drawn; or else it is the likeliest."""
    temperature: float = 1.0
    """What logits are divided by before one is drawn."""
    top_k: int = 0
    """One of so many of the likeliest is drawn; 0: of all. (transformers' default is 50.)"""
    top_p: float = 1.0
    """One of the likeliest that have this share of the probability together is drawn."""
    min_p: float | None = None
    """None is drawn that has less than this share of the likeliest one's probability."""
    typical_p: float = 1.0
    """One of the most typical that have this share together is drawn: those whose information is
    nearest to the entropy (Meister et al. 2022, "Locally Typical Sampling")."""

    num_beams: int = 1
    """How many ways are followed at once."""
    num_return_sequences: int = 1
    """How many texts a prompt gets."""
    length_penalty: float = 1.0
    """A beam's log-probability is divided by its new tokens' number to this power."""
    early_stopping: bool | str = False
    """True: end when there are `num_beams` whole texts; "never": when none can be better; False:
    when that is unlikely."""

    repetition_penalty: float = 1.0
    """What the logits of tokens that are there already are divided by, or multiplied if they are
    negative (Keskar et al. 2019, "CTRL")."""
    presence_penalty: float = 0.0
    """What the logits of tokens that were written already are less by."""
    frequency_penalty: float = 0.0
    """And for each time that they were."""
    no_repeat_ngram_size: int = 0
    """No row of so many tokens is there twice; 0: it may be."""
    bad_words_ids: list[list[int]] | None = None
    """Rows of tokens that are not written."""
    suppress_tokens: list[int] | None = None
    """Tokens that are not written."""
    begin_suppress_tokens: list[int] | None = None
    """Tokens that are not written first."""
    forced_eos_token_id: Ids = None
    """What the last token is where a row has its full length."""
    remove_invalid_values: bool = False
    """Whether NaN among logits counts as 0; or else it is an error."""

    eos_token_id: Ids = None
    """The token that ends a text, or several."""
    pad_token_id: int | None = None
    """What stands behind texts that ended; the first that ends them where it is None."""
    bos_token_id: int | None = None
    """What a text begins with where there is no prompt."""
    stop_strings: list[str] | None = None
    """Texts behind which a row ends, where they are in what was written; `generate` takes a
    tokenizer for them."""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keys of a file that are none of these, as they were."""

    def __post_init__(self) -> None:
        for name, (low, high, kinds) in _RANGES.items():
            value = getattr(self, name)
            good = isinstance(value, kinds) and not isinstance(value, bool)
            if value is not None and not (good and low <= value <= high):
                said = f"from {low} to {high}" if high < _MANY else f"of at least {low}"
                what = "a whole number" if kinds is int else "a number"
                raise ConfigError(f"{name} is {what} {said}; got {value!r}.")
        if self.temperature == 0:
            raise ConfigError(
                "temperature is above 0; for the likeliest token leave do_sample out."
            )
        if self.early_stopping not in (True, False, "never"):
            raise ConfigError(
                f'early_stopping is True, False or "never"; got {self.early_stopping!r}.'
            )
        for name in ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "stop_strings"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, str) or not isinstance(value, Sequence)):
                raise ConfigError(f"{name} is a list; got {value!r}.")
        if self.bad_words_ids is not None and not all(map(_are_ids, self.bad_words_ids)):
            raise ConfigError(
                f"bad_words_ids are lists of tokens, none empty; got {self.bad_words_ids!r}."
            )
        self._check_together()

    def _check_together(self) -> None:
        if self.num_return_sequences > 1 and self.num_beams == 1 and not self.do_sample:
            raise ConfigError(
                f"num_return_sequences={self.num_return_sequences} without do_sample=True or "
                "num_beams: the likeliest text is but one."
            )
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            raise ConfigError(
                f"num_return_sequences={self.num_return_sequences} is more than num_beams="
                f"{self.num_beams}, which are all that there are."
            )
        low, high = self.min_new_tokens, self.max_new_tokens
        if low is not None and high is not None and low > high:
            raise ConfigError(f"min_new_tokens={low} is more than max_new_tokens={high}.")
        if self.max_length is not None and high is None and self.min_length > self.max_length:
            raise ConfigError(
                f"min_length={self.min_length} is more than max_length={self.max_length}."
            )
        if not self.do_sample:
            for name in ("temperature", "top_k", "top_p", "min_p", "typical_p"):
                if getattr(self, name) != _DEFAULTS[name]:
                    raise ConfigError(
                        f"{name}={getattr(self, name)!r} with do_sample=False: nothing is drawn. "
                        f"Pass do_sample=True, or leave {name} out."
                    )

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        return _ids(self.eos_token_id)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GenerationConfig:
        """Those of a file; keys that are unknown are kept in `extra`."""
        names = {field.name for field in dataclasses.fields(cls)} - {"extra"}
        known = {k: v for k, v in values.items() if k in names and v is not None}
        if not known.get("do_sample", False):  # files have settings that then mean nothing
            for name in ("temperature", "top_k", "top_p", "min_p", "typical_p"):
                known.pop(name, None)
        return cls(**known, extra={k: v for k, v in values.items() if k not in names})

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> GenerationConfig:
        """That of a directory's generation_config.json; ConfigError where it is none."""
        path = Path(directory) / GENERATION_CONFIG_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read: {error}.") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} is no object of settings.")
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """What is not the default, and `extra`."""
        fields = (field.name for field in dataclasses.fields(self) if field.name != "extra")
        own = {name: getattr(self, name) for name in fields}
        return {**self.extra, **{k: v for k, v in own.items() if v != _DEFAULTS[k]}}

    def to_json(self) -> str:
        """The file's content."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def changed(self, **changes: Any) -> GenerationConfig:
        """These with some others; ConfigError, naming the nearest, for a name that is none."""
        names = {field.name for field in dataclasses.fields(self)} - {"extra"}
        for name in changes:
            if name not in names:
                raise ConfigError(f"generate has no option {name!r}. {nearest(name, names)}")
        return dataclasses.replace(self, **changes)


def from_paddle(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options under the names that PaddleNLP's `generate` has for them, where they are its own.

    They are when there is a `decode_strategy`: then `max_length` and `min_length` are of new tokens
    alone, as there. Raises ConfigError for a strategy that is none, and UnsupportedError (a
    NotImplementedError) for diverse beams.
    """
    if "decode_strategy" not in options:
        return dict(options)
    found = {k: v for k, v in options.items() if k not in ("decode_strategy", "diversity_rate")}
    strategy = options["decode_strategy"]
    if strategy not in _STRATEGIES:
        raise ConfigError(f"decode_strategy is one of {', '.join(_STRATEGIES)}; got {strategy!r}.")
    if options.get("diversity_rate"):
        raise UnsupportedError(
            f"diversity_rate={options['diversity_rate']!r}: there are no diverse beams here. Leave "
            "it out, or draw several texts: decode_strategy='sampling'."
        )
    if strategy != "beam_search" and found.get("num_beams", 1) != 1:
        raise ConfigError(
            f"num_beams={found['num_beams']} with decode_strategy={strategy!r}: beams are of "
            "'beam_search'. Leave one of them out."
        )
    for theirs, ours in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if theirs in found:
            found[ours] = found.pop(theirs)
    return {"do_sample": strategy == "sampling", **found}


_STRATEGIES = ("greedy_search", "sampling", "beam_search")
_MANY = float("inf")
_RANGES: dict[str, tuple[float, float, Any]] = {
    "max_new_tokens": (1, _MANY, int),
    "max_length": (1, _MANY, int),
    "min_new_tokens": (0, _MANY, int),
    "min_length": (0, _MANY, int),
    "temperature": (0, _MANY, (int, float)),
    "top_k": (0, _MANY, int),
    "top_p": (0, 1, (int, float)),
    "min_p": (0, 1, (int, float)),
    "typical_p": (0, 1, (int, float)),
    "num_beams": (1, _MANY, int),
    "num_return_sequences": (1, _MANY, int),
    "length_penalty": (-_MANY, _MANY, (int, float)),
    "repetition_penalty": (1e-9, _MANY, (int, float)),
    "presence_penalty": (-_MANY, _MANY, (int, float)),
    "frequency_penalty": (-_MANY, _MANY, (int, float)),
    "no_repeat_ngram_size": (0, _MANY, int),
}
_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(GenerationConfig)
    if field.name != "extra"
}


def _ids(value: Ids) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _are_ids(value: object) -> bool:
    whole = isinstance(value, Sequence) and not isinstance(value, str)
    return whole and len(value) > 0 and all(type(one) is int for one in value)  # type: ignore
