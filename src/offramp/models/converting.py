"""`offramp convert`: a model's directory in another library's names, files and settings.

torch is not needed: tensors go from file to file as the bytes that they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from offramp.checkpoints.directory import check_writable, staged
from offramp.checkpoints.file_names import WEIGHTS
from offramp.checkpoints.finding import find_save
from offramp.checkpoints.renames import renamed
from offramp.checkpoints.stored import Stored
from offramp.checkpoints.tables import FAMILIES, OLD_BUFFERS, paddle_rows
from offramp.checkpoints.weights import Reading, Weights, open_save
from offramp.checkpoints.writing import write_weights
from offramp.errors import CheckpointError, ConfigError, ConfigFileError, OfframpError, nearest
from offramp.models.config_file import (
    CONFIG_FILE,
    OLD_CONFIG_FILE,
    architecture,
    as_json,
    read_config,
    stated_dtype,
    stated_family,
)
from offramp.models.conversion import Conversion, Target
from offramp.models.dialects import FILES, in_dialect
from offramp.models.names import TOKENIZER_FILES, given_path, read_companions
from offramp.models.paddle_layout import from_paddle
from offramp.models.research import from_research
from offramp.storage.manifest import check_sizes
from offramp.storage.steady import reread

FORMATS: dict[str, str] = {
    "hf": "own",
    "paddle": "paddle",
    "research": "deebert",
    "pabee": "pabee",
}
"""What a model can be converted to: the dialect that is written."""
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def convert(
    source: str | Path,
    target: str | Path,
    to: str = "hf",
    *,
    max_shard_size: int | str | None = None,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    allow_legacy_pickle: bool = False,
    uint16_is_bfloat16: bool = False,
) -> Conversion:
    """Write the model in the directory `source` to the directory `target` in another format.

    `to` is "hf" (transformers' names in safetensors, which offramp's own files are), "paddle"

    `source` may have any dialect that offramp reads; tokenizer files go along. Numbers are moved
    and never changed. Weights of more than `max_shard_size` (bytes, or "5GB") go into several files
    with an index; the other options are `from_pretrained`'s, and say which files of the source are
    read. `target` is there whole or not at all.
    Raises ConfigError, ModelNotFoundError, CheckpointError, or SaveError.
    """
    if not isinstance(to, str) or to not in FORMATS:
        close = nearest(str(to), FORMATS)
        raise ConfigError(f"A model is converted to {', '.join(FORMATS)}. {close}")
    whole = given_path(source)
    source = Path(source).expanduser()
    if whole == check_writable(target):
        raise ConfigError(f"{target} is the model itself; name another directory.")
    target = Path(target).expanduser()
    options = Reading(
        allow_legacy_pickle=allow_legacy_pickle, uint16_is_bfloat16=uint16_is_bfloat16
    )
    read = partial(_read, source, variant=variant, use_safetensors=use_safetensors, options=options)
    try:
        weights, there, companions = reread(lambda: read(to), whole)
    except OSError as error:
        if isinstance(error, OfframpError):
            raise
        raise CheckpointError(  # a disk that fails
            f"{source} cannot be read: {error}. Nothing was written.", kind="missing", file=source
        ) from error
    names = TOKENIZER_FILES if companions.keys() & set(TOKENIZER_FILES) else ()
    replaced = re.compile("|".join([WEIGHTS.pattern, *map(re.escape, [OLD_CONFIG_FILE, *names])]))
    with staged(target, replaced) as fresh:
        (fresh / CONFIG_FILE).write_text(as_json(there.values), encoding="utf-8")
        write_weights(fresh, there.written(), FILES[FORMATS[to]], max_shard_size=max_shard_size)
        for name, content in companions.items():
            (fresh / name).write_bytes(content)
    return there.report(weights, str(source), str(target), to)


def _read(
    source: Path, to: str, *, variant: str | None, use_safetensors: bool | None, options: Reading
) -> tuple[Weights, Target, dict[str, bytes]]:
    """A directory's tensors, what is to be written of them, and the files beside them."""
    values = read_config(source)
    model_type = _model_type(values, source)
    family = FAMILIES.get(model_type)
    rows = paddle_rows(model_type, architecture(values))
    if stated_dtype(values) == "bfloat16":
        options = replace(options, uint16_is_bfloat16=True)
    save = find_save(
        source, variant=variant, use_safetensors=use_safetensors, rows=rows, options=options
    )
    weights = open_save(save, rows, options)
    weights = weights.without({n for n in weights.tensors if renamed(n, OLD_BUFFERS) is not None})
    weights, values = from_research(weights, values)
    notes: list[str] = []
    copies: dict[str, str] = {}
    if weights.dialect == "paddle":
        if family is None:
            raise ConfigError(
                f"{source} is a {model_type!r} model, and PaddleNLP's names are known of "
                f"{', '.join(FAMILIES)}."
            )
        weights, values, copies, notes = from_paddle(weights, values, family, model_type)
    values = {**values, "model_type": model_type, **_stated_dtype(weights.tensors)}
    there = in_dialect(weights, values, FORMATS[to])
    there.notes[:0] = notes
    there.tied |= {
        name: other
        for name, other in copies.items()
        if name in there.names and other in there.names
    }
    check_sizes(save.parent, {save.name, *(path.name for path in weights.files.values())})
    return weights, there, read_companions(source)


def _model_type(values: Mapping[str, Any], source: Path) -> str:
    found = stated_family(values)
    if found is None:
        raise ConfigFileError(
            f"{source / CONFIG_FILE} has neither model_type nor architectures that say what the "
            f"model is. Add model_type, one of {', '.join(FAMILIES)}.",
            file=source / CONFIG_FILE,
        )
    return found


def _stated_dtype(tensors: Mapping[str, Stored]) -> dict[str, str]:
    """The one type of the weights, where they have one."""
    types = {stored.dtype for stored in tensors.values() if stored.dtype in _TYPES}
    return {"dtype": _TYPES[types.pop()]} if len(types) == 1 else {}


__all__ = ["FORMATS", "Conversion", "convert"]
