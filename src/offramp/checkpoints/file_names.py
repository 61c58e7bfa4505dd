"""What the files of a save are called: `model.safetensors`, `pytorch_model.bin`,
`model_state.pdparams`; in parts `model-00001-of-00002.safetensors` and
`model.safetensors.index.json`. A variant ("fp16") stands before the last suffix.
"""

from __future__ import annotations

import re

from offramp.errors import ConfigError

SAFETENSORS_FILE = "model.safetensors"
TORCH_FILE = "pytorch_model.bin"
PADDLE_FILE = "model_state.pdparams"
INDEX_SUFFIX = ".index.json"
_INDEX = re.compile(r"\.index(\.[\w-]+)?\.json$")
WEIGHTS = re.compile(
    r"(model|pytorch_model|model_state|tf_model|flax_model)"  # a model's own, in any format:
    r"(\.[\w-]+)?(-\d+-of-\d+)?"  # of a variant, or a shard
    r"\.(safetensors|bin|pdparams|h5|msgpack)(\.index(\.[\w-]+)?\.json)?"
)
"""Names of a model's weights, whole or in parts."""


def is_index(name: str) -> bool:
    """Whether a file of this name says which file holds what."""
    return _INDEX.search(name) is not None


def weights_files(file: str, variant: str | None = None) -> tuple[str, str]:
    """The two names under which a save's weights are found: one file's, and an index's."""
    return with_variant(file, variant), with_variant(file + INDEX_SUFFIX, variant)


def with_variant(file: str, variant: str | None) -> str:
    """`file` with the variant before its last suffix; ConfigError for a variant that is no name."""
    if variant is None:
        return file
    if not isinstance(variant, str) or not variant.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(
            f'variant is a word in a file\'s name, such as "fp16" in model.fp16.safetensors; got '
            f"{variant!r}."
        )
    stem, _, suffix = file.rpartition(".")
    return f"{stem}.{variant}.{suffix}"


def replaced_by(file: str, variant: str | None = None) -> re.Pattern[str]:
    """The names of an earlier save's weights that a save takes away.

    That of a variant takes away the variant's, and any other all: they would be read in its place.
    """
    stem, suffix = map(re.escape, file.rpartition(".")[::2])
    shard, index = rf"(-\d+-of-\d+)?\.{suffix}", rf"\.{suffix}\.index"
    if variant is not None:
        word = re.escape(variant)
        return re.compile(rf"{stem}\.{word}{shard}|{stem}{index}\.{word}\.json")
    own = rf"{stem}(\.[\w-]+)?{shard}|{stem}{index}(\.[\w-]+)?\.json"
    return re.compile(f"{own}|{WEIGHTS.pattern}")
