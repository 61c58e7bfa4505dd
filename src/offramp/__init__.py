"""offramp: pretrained transformer encoders whose inputs leave as soon as the answer is known.

Importing this package is cheap: public names resolve on first use, from the one table below,
and torch loads when a model is first touched. The table is the registry too: checkpoints and
configurations name classes, and those names are looked up here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from offramp.backends import dummy, is_available
from offramp.errors import nearest

__version__ = "0.1.0"

_ERRORS = (
    "CheckpointError",
    "ConfigError",
    "DataError",
    "InputError",
    "MissingBackendError",
    "ModelNotFoundError",
    "NewWeightsWarning",
    "OfframpError",
    "TrainingError",
    "UnknownOptionError",
)

_TABLE: dict[str, tuple[str, tuple[str, ...]]] = {
    # public name: (module, packages without which it is a stand-in that explains itself)
    **dict.fromkeys(_ERRORS, ("offramp.errors", ())),
    "requires_backends": ("offramp.backends", ()),
    "Tokenizer": ("offramp.text.tokenizer", ("numpy", "tokenizers", "typing_extensions")),
    "read_table": ("offramp.text.tables", ()),
    "PretrainedConfig": ("offramp.models.config", ("typing_extensions",)),
    "PretrainedModel": ("offramp.models.base", ("torch",)),
    "PreTrainedModel": ("offramp.models.base", ("torch",)),
    "BertConfig": ("offramp.models.bert", ("torch",)),
    "BertPreTrainedModel": ("offramp.models.bert", ("torch",)),
    "BertModel": ("offramp.models.bert", ("torch",)),
    "BertForSequenceClassification": ("offramp.models.bert", ("torch",)),
    "add_exits": ("offramp.exits.attach", ("torch",)),
    "build_exits": ("offramp.exits.attach", ("torch",)),
    "logits_by_depth": ("offramp.exits.attach", ("torch",)),
    "Entropy": ("offramp.exits.criteria", ("torch",)),
    "Criterion": ("offramp.exits.criteria", ("torch",)),
    "Runner": ("offramp.runner.run", ("torch",)),
    "RowResult": ("offramp.runner.run", ("torch",)),
    "Classifier": ("offramp.runner.classifier", ("torch",)),
    "Prediction": ("offramp.runner.classifier", ("torch",)),
    "load": ("offramp.runner.classifier", ("torch",)),
    "TrainingOptions": ("offramp.training.options", ("torch",)),
    "train": ("offramp.training.train", ("torch",)),
    "evaluate": ("offramp.training.evaluation", ("torch",)),
}

__all__ = sorted(_TABLE)


def __getattr__(name: str) -> Any:
    if name not in _TABLE:
        raise AttributeError(f"module 'offramp' has no attribute {name!r}. {nearest(name, _TABLE)}")
    module, backends = _TABLE[name]
    if all(is_available(package) for package in backends):
        value = getattr(importlib.import_module(module), name)
    else:
        value = dummy(name, backends, module)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_TABLE})


if TYPE_CHECKING:
    from offramp.backends import requires_backends as requires_backends
    from offramp.errors import (
        CheckpointError as CheckpointError,
    )
    from offramp.errors import (
        ConfigError as ConfigError,
    )
    from offramp.errors import (
        DataError as DataError,
    )
    from offramp.errors import (
        InputError as InputError,
    )
    from offramp.errors import (
        MissingBackendError as MissingBackendError,
    )
    from offramp.errors import (
        ModelNotFoundError as ModelNotFoundError,
    )
    from offramp.errors import (
        NewWeightsWarning as NewWeightsWarning,
    )
    from offramp.errors import (
        OfframpError as OfframpError,
    )
    from offramp.errors import (
        TrainingError as TrainingError,
    )
    from offramp.errors import (
        UnknownOptionError as UnknownOptionError,
    )
    from offramp.exits.attach import (
        add_exits as add_exits,
    )
    from offramp.exits.attach import (
        build_exits as build_exits,
    )
    from offramp.exits.attach import (
        logits_by_depth as logits_by_depth,
    )
    from offramp.exits.criteria import Criterion as Criterion
    from offramp.exits.criteria import Entropy as Entropy
    from offramp.models.base import (
        PreTrainedModel as PreTrainedModel,
    )
    from offramp.models.base import (
        PretrainedModel as PretrainedModel,
    )
    from offramp.models.bert import (
        BertConfig as BertConfig,
    )
    from offramp.models.bert import (
        BertForSequenceClassification as BertForSequenceClassification,
    )
    from offramp.models.bert import (
        BertModel as BertModel,
    )
    from offramp.models.bert import (
        BertPreTrainedModel as BertPreTrainedModel,
    )
    from offramp.models.config import PretrainedConfig as PretrainedConfig
    from offramp.runner.classifier import (
        Classifier as Classifier,
    )
    from offramp.runner.classifier import (
        Prediction as Prediction,
    )
    from offramp.runner.classifier import (
        load as load,
    )
    from offramp.runner.run import RowResult as RowResult
    from offramp.runner.run import Runner as Runner
    from offramp.text.tables import read_table as read_table
    from offramp.text.tokenizer import Tokenizer as Tokenizer
    from offramp.training.evaluation import evaluate as evaluate
    from offramp.training.options import TrainingOptions as TrainingOptions
    from offramp.training.train import train as train
