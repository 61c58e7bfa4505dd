"""`PretrainedConfig`: a model's numbers, checked when set, kept in `config.json`.

The file format is transformers': https://huggingface.co/docs/transformers/main_classes/configuration
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from typing_extensions import Self, dataclass_transform

from offramp.errors import ConfigError, ConfigFileError, UnknownOptionError, nearest
from offramp.hub.names import Request
from offramp.models.builtin import writable
from offramp.models.config_file import (
    CONFIG_FILE,
    OLD_CONFIG_FILE,
    as_json,
    read_config,
    read_json,
)
from offramp.models.names import exists, locate, model_files
from offramp.storage.files import write_file
from offramp.storage.into import write_into

Check = Callable[[Any], str | None]
"""Given a value, None if it is good, else what was expected."""

T = TypeVar("T", bound=type)


def whole(at_least: int, at_most: int = 2**31 - 1) -> Check:
    """A whole number from `at_least` to `at_most`: a file may say anything."""

    def check(value: Any) -> str | None:
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            return f"a whole number of at least {at_least}"
        return None if value <= at_most else f"at most {at_most}"

    return check


def number(low: float, high: float) -> Check:
    """A number from `low` to `high`, both included."""

    def check(value: Any) -> str | None:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        return None if good and low <= value <= high else f"a number from {low} to {high}"

    return check


def one_of(*allowed: Any) -> Check:
    """One of a few values."""

    def check(value: Any) -> str | None:
        return None if value in allowed else f"one of {', '.join(map(repr, allowed))}"

    return check


def optional(inner: Check) -> Check:
    """None, or what `inner` takes."""

    def check(value: Any) -> str | None:
        expected = None if value is None else inner(value)
        return None if expected is None else f"None or {expected}"

    return check


def setting(*, default: Any, check: Check, structural: bool = False) -> Any:
    """A field with a default and the check that every value set on it must pass.

    A `structural` one is part of the network: changed under a live model, it is an error at save.
    """
    return dataclasses.field(default=default, metadata={"check": check, "structural": structural})


def _annotations(cls: type) -> list[tuple[str, object]]:
    return list(vars(cls).get("__annotations__", {}).items())


@dataclass_transform(kw_only_default=True, field_specifiers=(setting, dataclasses.field))
def configuration(cls: T) -> T:
    """Make `cls` a keyword-only dataclass whose constructor names the nearest field for a typo.

    A field of a parent that gets another default keeps its check: `vocab_size: int = 50265`.
    """
    inherited = getattr(cls, "__dataclass_fields__", {})
    for name, kind in _annotations(cls):
        default = vars(cls).get(name, dataclasses.MISSING)
        plain = "ClassVar" not in str(kind) and not isinstance(default, dataclasses.Field)
        if name in inherited and plain:
            metadata = inherited[name].metadata
            setattr(cls, name, dataclasses.field(default=default, metadata=metadata))
    built: Any = dataclasses.dataclass(kw_only=True)(cls)
    plain_init = built.__init__

    def checked_init(self: Any, **values: Any) -> None:
        values = built.without_aliases(values)
        if "label2id" in values:
            numbers = values.pop("label2id")
            if values.get("id2label") is None:
                values["id2label"] = _labels_of(numbers)
            _check_inverse(values["id2label"], numbers)
        if values.pop("model_type", built.model_type) != built.model_type:
            raise ConfigError(f"A {cls.__name__} has model_type {built.model_type!r} and no other.")
        known = {field.name for field in dataclasses.fields(built)}
        for name in values:
            if name not in known:
                raise UnknownOptionError(
                    f"{cls.__name__} has no setting {name!r}. {nearest(name, known)}"
                )
        labels, n_labels = values.get("id2label"), values.get("num_labels")
        if isinstance(labels, Mapping) and n_labels is not None and len(labels) != n_labels:
            raise ConfigError(
                f"num_labels={n_labels} contradicts id2label, which names {len(labels)} classes. "
                "Pass one of them."
            )
        plain_init(self, **values)

    checked_init.__signature__ = inspect.signature(plain_init)  # type: ignore[attr-defined]
    built.__init__ = checked_init
    return built  # type: ignore[no-any-return]


@configuration
class PretrainedConfig:
    """Base of every family's configuration.

    A field is checked when it is set, fields together by `validate()`, which building and saving a
    model call. Keys of a file that no field has are kept in `extra` and written back; a keyword
    from Python that no field has is an error that names the nearest.
    """

    model_type: ClassVar[str] = ""
    """The family's name in config.json, such as "bert"; a file of another's is refused."""
    attribute_map: ClassVar[Mapping[str, str]] = {
        "num_classes": "num_labels",
        "_attn_implementation": "attn_implementation",
    }
    """{another name: the field's}; the other names work wherever the field's does."""
    pretrained_init_configuration: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """{built-in name: its configuration}."""
    sub_configs: ClassVar[Mapping[str, type[PretrainedConfig]]] = {}
    """Configurations inside this one, by field, for tools that look; no family here has any."""

    architectures: list[str] | None = None
    """Names of the classes this configuration was saved with."""
    num_labels: int = setting(default=2, check=whole(1, 250_000), structural=True)
    """C: the outputs of a classification head. Follows `id2label` and is followed by it."""
    id2label: dict[int, str] | None = None
    """Class number to class name; LABEL_0, LABEL_1, ... where none are given."""
    problem_type: str | None = setting(
        default=None,
        check=optional(
            one_of("regression", "single_label_classification", "multi_label_classification")
        ),
    )
    """The loss of a classification head; with None the labels' type and C decide."""
    output_hidden_states: bool = setting(default=False, check=one_of(True, False))
    """This and the next two: what `forward` does where its argument of that name is not given."""
    output_attentions: bool = setting(default=False, check=one_of(True, False))
    return_dict: bool = setting(default=True, check=one_of(True, False))
    attn_implementation: str = setting(default="sdpa", check=one_of("sdpa", "eager"))
    """"eager" computes attention openly on padded rows, which is slow; not written to a file."""
    is_encoder_decoder: bool = setting(default=False, check=one_of(False))
    tie_word_embeddings: bool = setting(default=True, check=one_of(True, False), structural=True)
    """Whether an output head over the vocabulary is the input embedding itself."""
    pruned_heads: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    """Attention heads taken out: {layer, from 0: heads by their numbers in the whole layer}."""
    exits: dict[str, Any] | None = None
    """The early exits that travel with the model; see `offramp.add_exits`."""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keys of the file that are no field here, as they were."""

    def __post_init__(self) -> None:
        """Give labels to classes without; ConfigError for settings that would not be saved."""
        fields, cls = {field.name for field in dataclasses.fields(self)}, type(self)
        stated = {name for name, kind in _annotations(cls) if "ClassVar" not in str(kind)}
        if undeclared := sorted(stated - fields):
            raise ConfigError(
                f"{', '.join(undeclared)} of {cls.__name__} would not be saved: put @configuration "
                "(offramp.models.config) above the class."
            )
        if self.id2label is None:
            self.id2label = _default_labels(self.num_labels)

    def __getattr__(self, name: str) -> Any:
        # Only for names that are no field: another name of one, or a key of the file.
        if name in type(self).attribute_map:
            return getattr(self, type(self).attribute_map[name])
        extra = self.__dict__.get("extra", {})
        if name in extra:
            return extra[name]
        known = {*type(self).__dataclass_fields__, *extra}
        raise AttributeError(f"{type(self).__name__} has no {name!r}. {nearest(name, known)}")

    def __setattr__(self, name: str, value: Any) -> None:
        name = type(self).attribute_map.get(name, name)
        if name == "label2id":
            name, value = "id2label", _labels_of(value)
        field = type(self).__dataclass_fields__.get(name)
        check: Check | None = field.metadata.get("check") if field else None
        expected = check(value) if check else None
        if expected:
            raise ConfigError(f"{type(self).__name__}.{name} must be {expected}; got {value!r}.")
        if name == "pruned_heads":
            value = numbered_heads(value)
        if name == "id2label" and value is not None:
            value = _numbered_labels(value)
            object.__setattr__(self, "num_labels", len(value))
        if field is None and not hasattr(type(self), name) and not name.startswith("_"):
            self.extra[name] = value  # kept and written, as a file's own keys are
            return
        object.__setattr__(self, name, value)
        labels = getattr(self, "id2label", None)
        if name == "num_labels" and labels is not None and len(labels) != value:
            object.__setattr__(self, "id2label", _default_labels(value))

    def __iter__(self) -> Iterator[str]:
        """The names of what `to_dict` has."""
        return iter(self.to_dict())

    @classmethod
    def keywords(cls) -> set[str]:
        """What the constructor takes: fields, their other names, and `label2id`."""
        return {field.name for field in dataclasses.fields(cls)} | {*cls.attribute_map, "label2id"}

    @classmethod
    def without_aliases(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` under the fields' names; ConfigError where two names of one field differ."""
        named = {k: v for k, v in values.items() if k not in cls.attribute_map}
        for alias, name in cls.attribute_map.items():
            if alias in values and named.setdefault(name, values[alias]) != values[alias]:
                raise ConfigError(
                    f"{alias} and {name} are two names of one setting; got {values[alias]!r} and "
                    f"{named[name]!r}. Pass one of them."
                )
        return named

    def structure(self) -> dict[str, Any]:
        """The fields that the network is built from."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata.get("structural")
        }

    @property
    def labels(self) -> list[str]:
        """The class names, in the order of the logits."""
        assert self.id2label is not None  # set by __post_init__
        return [self.id2label[number] for number in range(self.num_labels)]

    @property
    def label2id(self) -> dict[str, int]:
        """Class name to class number. Set, it is `id2label` the other way round."""
        return {label: number for number, label in enumerate(self.labels)}

    def validate(self) -> None:
        """Check the fields against one another; raises ConfigError. Families add to it."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **changes: Any) -> Self:
        """A configuration from a file's mapping; `changes` are fields and override it.

        Raises ConfigError where the mapping says that it is of another `model_type`.
        """
        found = values.get("model_type")
        if found and cls.model_type and found != cls.model_type:
            raise ConfigError(
                f"These are the values of a {found!r} model, and {cls.__name__} is for "
                f"{cls.model_type!r}. Use the class that belongs to {found!r}."
            )
        fields = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        values = {name: writable(value) for name, value in values.items()}
        values, changes = cls.without_aliases(values), cls.without_aliases(changes)
        named = {k: copy.deepcopy(v) for k, v in values.items() if k in fields}
        extra = {k: copy.deepcopy(v) for k, v in values.items() if k not in fields}
        extra.pop("model_type", None)
        numbers = extra.pop("label2id", None)  # made from id2label, unless it stands alone
        if numbers is not None and named.get("id2label") is None:
            named["id2label"] = _labels_of(numbers)
        named.pop("attn_implementation", None)  # how a model is run is not the file's to say
        if named.get("id2label") is not None:
            named.pop("num_labels", None)
        labels = named.get("id2label")
        n_labels = len(labels) if isinstance(labels, Mapping) else 0
        if changes.get("num_labels") not in (None, n_labels):
            named.pop("id2label", None)
        takes = inspect.signature(cls.__init__).parameters.keys() - fields - {"extra", "self"}
        named |= {name: extra.pop(name) for name in list(extra) if name in takes}
        if "id2label" in changes or "label2id" in changes:
            named.pop("num_labels", None)
            named.pop("id2label", None)
        return cls(**{"extra": extra, **named, **changes})

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        token: str | bool | None = None,
        **changes: Any,
    ) -> Self:
        """The configuration of a directory, of a built-in name, or of owner/name on the hub.

        A file is read as config.json is. `changes` are fields. Raises ModelNotFoundError,
        HubError or ConfigError.
        """
        name = pretrained_model_name_or_path
        built_in = cls.pretrained_init_configuration.get(str(name))
        if built_in is not None and not exists(name):
            return cls.from_dict(built_in, **changes)
        request = Request(revision, subfolder, cache_dir, local_files_only, force_download, token)
        select = model_files((CONFIG_FILE, OLD_CONFIG_FILE), None)
        built_in_names = dict.fromkeys(cls.pretrained_init_configuration, "")
        place = locate(name, request, select, built_in_names)
        values = read_config(place.directory, place.file or CONFIG_FILE)
        return cls.from_values(values, str(name), **changes)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str, **changes: Any) -> Self:
        """`from_dict`, where the values must be those of a model of this class's type."""
        found = values.get("model_type")
        if found and cls.model_type and found != cls.model_type:
            raise ConfigError(
                f"{where} holds a {found!r} model and {cls.__name__} is for "
                f"{cls.model_type!r}. Use the class that belongs to {found!r}."
            )
        try:
            return cls.from_dict(values, **changes)
        except ConfigError as error:
            if changes:  # is it what the caller changes that cannot be, or what the file says?
                cls.from_values(values, where)
                raise
            raise ConfigFileError(f"{where}: {error}", file=where) from error

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds: fields, the file's other keys, label2id and model_type."""
        values = dict(copy.deepcopy(self.extra))
        for field in dataclasses.fields(self):
            if field.name not in ("extra", "num_labels", "attn_implementation"):
                values[field.name] = copy.deepcopy(getattr(self, field.name))
        values["id2label"] = {str(number): label for number, label in enumerate(self.labels)}
        values["label2id"] = self.label2id
        for name in ("exits", "pruned_heads"):
            if not values[name]:
                del values[name]
        return {"model_type": self.model_type, **values}

    def to_diff_dict(self) -> dict[str, Any]:
        """What of `to_dict` differs from the class's defaults, and the model's type."""
        plain = type(self)().to_dict()
        return {
            name: value
            for name, value in self.to_dict().items()
            if name == "model_type" or name not in plain or plain[name] != value
        }

    def get_text_config(self, decoder: bool = False, encoder: bool = False) -> Self:
        """This configuration: transformers' tools ask for the part of one that is about text."""
        return self

    def save_pretrained(self, save_dir: str | Path) -> None:
        """Write config.json into a directory; what else lies there stays."""
        text = self.to_json_string(use_diff=False)
        write_into(Path(save_dir), {CONFIG_FILE: text.encode()})

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = True) -> None:
        """Write `to_json_string` to a file."""
        write_file(Path(json_file_path), self.to_json_string(use_diff))

    @classmethod
    def from_json_file(cls, json_file: str | Path) -> Self:
        """The configuration in a file of any name."""
        return cls.from_dict(read_json(Path(json_file).expanduser()))

    def to_json_string(self, use_diff: bool = True) -> str:
        """`to_diff_dict` as JSON, or `to_dict`."""
        return as_json(self.to_diff_dict() if use_diff else self.to_dict())

    def to_json(self) -> str:
        """`to_dict` as the text of config.json."""
        self.validate()
        return self.to_json_string(use_diff=False)


def _labels_of(numbers: Any) -> dict[int, str]:
    """`id2label` of a `label2id`."""
    try:
        labels = {int(number): str(label) for label, number in numbers.items()}
    except (AttributeError, TypeError, ValueError):
        labels = {}
    if not labels or len(labels) != len(numbers):
        raise ConfigError(
            f"label2id must give class names the numbers 0, 1, 2, ..., each once; got {numbers!r}."
        )
    return labels


def _check_inverse(labels: Any, numbers: Any) -> None:
    inverse = {label: number for number, label in _numbered_labels(labels).items()}
    if inverse != {label: number for number, label in _labels_of(numbers).items()}:
        raise ConfigError(
            f"label2id={numbers!r} is not id2label={labels!r} turned round. Pass one of them."
        )


def _numbered_labels(value: Any) -> dict[int, str]:
    try:
        labels = {int(number): str(label) for number, label in value.items()}
    except (AttributeError, TypeError, ValueError):
        labels = {}
    if not labels or sorted(labels) != list(range(len(labels))):
        raise ConfigError(
            f"id2label must give classes numbered 0, 1, 2, ... their names; got {value!r}."
        )
    return labels


def numbered_heads(value: Any) -> dict[int, list[int]]:
    """{layer: heads} with numbers for what may be texts; ConfigError for what is none."""
    try:
        return {int(layer): sorted({int(head) for head in heads}) for layer, heads in value.items()}
    except (AttributeError, TypeError, ValueError):
        raise ConfigError(
            "pruned_heads gives layers (from 0) lists of heads, such as {0: [1, 3]}; got "
            f"{value!r}."
        ) from None


def _default_labels(n: int) -> dict[int, str]:
    return {number: f"LABEL_{number}" for number in range(n)}
