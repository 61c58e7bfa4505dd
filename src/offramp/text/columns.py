"""Rows of columns in memory: a dict of lists, or a Hugging Face `datasets.Dataset`.

`datasets` is not imported: its objects are known by their type's module, so that whoever has one to
pass has the package, and nobody else needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from offramp.errors import DataError
from offramp.text.records import Found


@runtime_checkable
class ColumnDataset(Protocol):
    """What offramp asks of a `datasets.Dataset`."""

    @property
    def column_names(self) -> Any:
        """The columns' names."""

    @property
    def features(self) -> Any:
        """What each column holds, by name."""

    def __getitem__(self, key: Any, /) -> Any:
        """A column, by its name."""

    def __len__(self) -> int:
        """How many rows there are."""


Columns: TypeAlias = Mapping[str, Iterable[Any]] | ColumnDataset
"""Rows in memory: columns of equal lengths by name, or a `datasets.Dataset`."""


def has_columns(data: object) -> bool:
    """Whether it is such a thing, and not a table already."""
    return isinstance(data, Mapping) or _is_of_datasets(data)


def source_of(data: object) -> str:
    """What messages call it."""
    if isinstance(data, Mapping):
        return f"the {type(data).__name__} of columns"
    return f"the {type(data).__name__}"


def column_records(data: Columns, wanted: Iterable[str], source: str) -> Found:
    """Its rows with the `wanted` columns; classes that have names (`ClassLabel`) by those.

    Raises DataError for what has no such columns, or columns of different lengths.
    """
    _check_whole(data)
    known = list(data) if isinstance(data, Mapping) else list(data.column_names)
    columns: dict[str, list[Any]] = {}
    for name in dict.fromkeys(wanted):
        if name not in known:
            raise DataError(
                f"{source}: no column {name!r}. It has {', '.join(map(repr, known))}. Name the "
                "columns: offramp.Table.of(data, text=..., label=...)"
            )
        columns[name] = _values(data, name, source)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{source}: columns of different lengths: {lengths}.")
    for row, values in enumerate(zip(*columns.values(), strict=True), start=1):
        yield f"row {row}", dict(zip(columns, values, strict=True))


def _values(data: Columns, name: str, source: str) -> list[Any]:
    column = data[name]
    if isinstance(column, (str, bytes)) or not isinstance(column, Iterable):
        raise DataError(
            f"{source}: the column {name!r} is a {type(column).__name__}; expected a list, a value "
            "a row."
        )
    values = [_plain(value) for value in column]
    features = {} if isinstance(data, Mapping) else data.features or {}
    return _named(values, features.get(name), name, source)


def _named(values: list[Any], feature: Any, name: str, source: str) -> list[Any]:
    """Class numbers by the names that a dataset has for them, in lists of them too."""
    within = getattr(feature, "feature", None)
    if within is not None:
        return [
            _named(value, within, name, source) if isinstance(value, list) else value
            for value in values
        ]
    names = getattr(feature, "names", None)
    if names is None:
        return values
    for row, value in enumerate(values, start=1):
        if not isinstance(value, int) or not 0 <= value < len(names):
            raise DataError(
                f"{source}, row {row}: {name!r} is {value!r}, which is no class (0 to "
                f"{len(names) - 1}). Rows without a label (-1) have to be left out."
            )
    return [names[value] for value in values]


def _plain(value: Any) -> Any:
    """A value as JSON would have it: numbers and lists of numpy, torch and others as Python's."""
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _check_whole(data: object) -> None:
    """DataError for what has several splits, or rows that have to be read one by one."""
    if isinstance(data, Mapping):
        splits = [name for name, part in data.items() if hasattr(part, "column_names")]
        if splits:
            raise DataError(
                f"This {type(data).__name__} holds datasets, {', '.join(map(repr, splits))}; pass "
                f"one of them, such as data[{splits[0]!r}]."
            )
    elif not isinstance(data, ColumnDataset):
        raise DataError(
            f"A {type(data).__name__} is read row by row; expected a datasets.Dataset, whose "
            "columns can be asked for. Make one of it: datasets.Dataset.from_list(list(data))"
        )


def _is_of_datasets(data: object) -> bool:
    module = type(data).__module__.partition(".")[0]
    return module == "datasets" and hasattr(data, "features")
