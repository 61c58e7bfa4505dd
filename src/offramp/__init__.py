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
    "CertificateWarning",
    "CheckpointError",
    "ConfigError",
    "ConfigFileError",
    "DataError",
    "DriftWarning",
    "HubError",
    "InputError",
    "MissingBackendError",
    "ModelNotFoundError",
    "NaNLogitsWarning",
    "NewWeightsWarning",
    "OfframpError",
    "ReplacedExitsWarning",
    "SaveError",
    "TrainingError",
    "UnknownOptionError",
    "UnsupportedError",
)

_MODELS = ("torch", "safetensors", "typing_extensions")
_TEXT = ("numpy", "tokenizers", "typing_extensions")

_CLASSES = (
    "Config",
    "PreTrainedModel",
    "Model",
    "ForMaskedLM",
    "ForMultipleChoice",
    "ForQuestionAnswering",
    "ForSequenceClassification",
    "ForTokenClassification",
)
_FAMILIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    # module, how its classes begin, and those that it has beside _CLASSES
    ("albert", "Albert", ("ForPreTraining",)),
    ("bert", "Bert", ("ForNextSentencePrediction", "ForPreTraining")),
    ("distilbert", "DistilBert", ()),
    ("electra", "Electra", ("ForPreTraining",)),
    ("ernie", "Ernie", ("ForNextSentencePrediction", "ForPreTraining")),
    ("mpnet", "MPNet", ()),
    ("roberta", "Camembert", ()),
    ("roberta", "Roberta", ()),
    ("roberta", "XLMRoberta", ()),
)

_DEEBERT = (
    "DeeBertForSequenceClassification",
    "DeeBertModel",
    "DeeRobertaForSequenceClassification",
    "DeeRobertaModel",
    "HighwayException",
    "entropy",
)
_PABEE = (
    "AlbertForSequenceClassificationWithPabee",
    "AlbertModelWithPabee",
    "BertForSequenceClassificationWithPabee",
    "BertModelWithPabee",
)
_CRITERIA = (
    "AllOf",
    "AnyOf",
    "ConfidentPatience",
    "Criterion",
    "Decision",
    "Energy",
    "Entropy",
    "FixedDepth",
    "JensenShannonPatience",
    "LayerEntropy",
    "LearnedToExit",
    "Margin",
    "MaxProbability",
    "MinDepth",
    "NormalizedEntropy",
    "Patience",
    "RandomExit",
    "RegressionPatience",
    "Voting",
)

_TABLE: dict[str, tuple[str, tuple[str, ...]]] = {
    # public name: (module, packages without which it is a stand-in that explains itself)
    **dict.fromkeys(_ERRORS, ("offramp.errors", ())),
    "requires_backends": ("offramp.backends", ()),
    "Tokenizer": ("offramp.text.tokenizer", _TEXT),
    "Encoded": ("offramp.text.tokenizer", _TEXT),
    "Tokens": ("offramp.text.tokenizer", _TEXT),
    "Table": ("offramp.text.tables", ()),
    "read_table": ("offramp.text.tables", ()),
    "StreamedTable": ("offramp.text.tables", ()),
    "stream_table": ("offramp.text.tables", ()),
    "TaggedTable": ("offramp.text.tagged", ()),
    "read_tagged": ("offramp.text.tagged", ()),
    "PretrainedConfig": ("offramp.models.config", ("typing_extensions",)),
    "PretrainedModel": ("offramp.models.base", _MODELS),
    "PreTrainedModel": ("offramp.models.base", _MODELS),
    **{
        prefix + ending: (f"offramp.models.{module}", _MODELS)
        for module, prefix, more in _FAMILIES
        for ending in (*_CLASSES, *more)
    },
    "BertPretrainedModel": ("offramp.models.bert", _MODELS),
    "BertForPretraining": ("offramp.models.bert", _MODELS),
    "AutoConfig": ("offramp.models.auto", _MODELS),
    "AutoModel": ("offramp.models.auto", _MODELS),
    "AutoModelForMaskedLM": ("offramp.models.auto", _MODELS),
    "AutoModelForMultipleChoice": ("offramp.models.auto", _MODELS),
    "AutoModelForNextSentencePrediction": ("offramp.models.auto", _MODELS),
    "AutoModelForPreTraining": ("offramp.models.auto", _MODELS),
    "AutoModelForQuestionAnswering": ("offramp.models.auto", _MODELS),
    "AutoModelForSequenceClassification": ("offramp.models.auto", _MODELS),
    "AutoModelForTokenClassification": ("offramp.models.auto", _MODELS),
    "from_transformers": ("offramp.models.bridge", _MODELS),
    "to_transformers": ("offramp.models.bridge", _MODELS),
    "InitTrackerMeta": ("offramp.models.tracking", _MODELS),
    "GenerationMixin": ("offramp.generation.mixin", ()),
    "convert": ("offramp.models.converting", ("numpy", "safetensors")),
    "Conversion": ("offramp.models.conversion", ("numpy", "safetensors")),
    "inspect": ("offramp.models.inspecting", ("numpy", "safetensors")),
    "Inspection": ("offramp.models.inspecting", ("numpy", "safetensors")),
    "verify": ("offramp.storage.verifying", ()),
    "Verification": ("offramp.storage.verifying", ()),
    "LoadingReport": ("offramp.models.loading", _MODELS),
    "Source": ("offramp.hub.names", ()),
    "register_base_model": ("offramp.models.base", _MODELS),
    "add_exits": ("offramp.exits.attach", _MODELS),
    "build_exits": ("offramp.exits.attach", _MODELS),
    "logits_by_depth": ("offramp.exits.forward", _MODELS),
    "Certificate": ("offramp.exits.calibration.certificate", _MODELS),
    "certificate_of": ("offramp.exits.calibration.certificate", _MODELS),
    "certificate_card": ("offramp.exits.calibration.card", _MODELS),
    "ExitWatch": ("offramp.exits.calibration.drift", _MODELS),
    "check_certificate": ("offramp.exits.calibration.certificate", _MODELS),
    **dict.fromkeys(_CRITERIA, ("offramp.exits.criteria", _MODELS)),
    **dict.fromkeys(_DEEBERT, ("offramp.exits.deebert", _MODELS)),
    **dict.fromkeys(_PABEE, ("offramp.exits.pabee", _MODELS)),
    "Runner": ("offramp.runner.run", (*_MODELS, *_TEXT)),
    "prepare": ("offramp.runner.prepare", _MODELS),
    "RowResult": ("offramp.runner.run", (*_MODELS, *_TEXT)),
    "Progress": ("offramp.runner.progress", ()),
    "Classifier": ("offramp.runner.classifier", (*_MODELS, *_TEXT)),
    "Prediction": ("offramp.runner.classifier", (*_MODELS, *_TEXT)),
    "Embedder": ("offramp.runner.embedder", (*_MODELS, *_TEXT)),
    "MultiLabelClassifier": ("offramp.runner.multi_label", (*_MODELS, *_TEXT)),
    "LabelSet": ("offramp.runner.multi_label", (*_MODELS, *_TEXT)),
    "Regressor": ("offramp.runner.regressor", (*_MODELS, *_TEXT)),
    "Estimate": ("offramp.runner.regressor", (*_MODELS, *_TEXT)),
    "Reranker": ("offramp.runner.reranker", (*_MODELS, *_TEXT)),
    "Ranked": ("offramp.runner.reranker", (*_MODELS, *_TEXT)),
    "Tagger": ("offramp.runner.tagger", (*_MODELS, *_TEXT)),
    "Entity": ("offramp.runner.tagger", (*_MODELS, *_TEXT)),
    "Answerer": ("offramp.runner.answerer", (*_MODELS, *_TEXT)),
    "Answer": ("offramp.runner.answerer", (*_MODELS, *_TEXT)),
    "Chooser": ("offramp.runner.chooser", (*_MODELS, *_TEXT)),
    "Choice": ("offramp.runner.chooser", (*_MODELS, *_TEXT)),
    "load": ("offramp.runner.loading", (*_MODELS, *_TEXT)),
    "TrainingOptions": ("offramp.training.options", (*_MODELS, *_TEXT)),
    "train": ("offramp.training.train", (*_MODELS, *_TEXT)),
    "train_tagger": ("offramp.training.tagger", (*_MODELS, *_TEXT)),
    "TrainerMixin": ("offramp.training.trainer_mixin", _MODELS),
    "calibrate": ("offramp.training.calibrating", (*_MODELS, *_TEXT)),
    "Calibration": ("offramp.training.calibrating", (*_MODELS, *_TEXT)),
    "recalibrate": ("offramp.training.thresholds", (*_MODELS, *_TEXT)),
    "evaluate": ("offramp.training.evaluation", (*_MODELS, *_TEXT)),
    "evaluate_tagger": ("offramp.training.tagger_evaluation", (*_MODELS, *_TEXT)),
    "report": ("offramp.reporting.measuring", (*_MODELS, *_TEXT)),
    "Report": ("offramp.reporting.measuring", (*_MODELS, *_TEXT)),
    "entity_f1": ("offramp.training.entities", (*_MODELS, *_TEXT)),
    "EntityScores": ("offramp.training.entities", (*_MODELS, *_TEXT)),
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
        CertificateWarning as CertificateWarning,
        CheckpointError as CheckpointError,
        ConfigError as ConfigError,
        ConfigFileError as ConfigFileError,
        DataError as DataError,
        DriftWarning as DriftWarning,
        HubError as HubError,
        InputError as InputError,
        MissingBackendError as MissingBackendError,
        ModelNotFoundError as ModelNotFoundError,
        NaNLogitsWarning as NaNLogitsWarning,
        NewWeightsWarning as NewWeightsWarning,
        OfframpError as OfframpError,
        ReplacedExitsWarning as ReplacedExitsWarning,
        SaveError as SaveError,
        TrainingError as TrainingError,
        UnknownOptionError as UnknownOptionError,
        UnsupportedError as UnsupportedError,
    )
    from offramp.exits.attach import (
        add_exits as add_exits,
        build_exits as build_exits,
    )
    from offramp.exits.calibration.card import certificate_card as certificate_card
    from offramp.exits.calibration.certificate import (
        Certificate as Certificate,
        certificate_of as certificate_of,
        check_certificate as check_certificate,
    )
    from offramp.exits.calibration.drift import ExitWatch as ExitWatch
    from offramp.exits.criteria import (
        AllOf as AllOf,
        AnyOf as AnyOf,
        ConfidentPatience as ConfidentPatience,
        Criterion as Criterion,
        Decision as Decision,
        Energy as Energy,
        Entropy as Entropy,
        FixedDepth as FixedDepth,
        JensenShannonPatience as JensenShannonPatience,
        LayerEntropy as LayerEntropy,
        LearnedToExit as LearnedToExit,
        Margin as Margin,
        MaxProbability as MaxProbability,
        MinDepth as MinDepth,
        NormalizedEntropy as NormalizedEntropy,
        Patience as Patience,
        RandomExit as RandomExit,
        RegressionPatience as RegressionPatience,
        Voting as Voting,
    )
    from offramp.exits.deebert import (
        DeeBertForSequenceClassification as DeeBertForSequenceClassification,
        DeeBertModel as DeeBertModel,
        DeeRobertaForSequenceClassification as DeeRobertaForSequenceClassification,
        DeeRobertaModel as DeeRobertaModel,
        HighwayException as HighwayException,
        entropy as entropy,
    )
    from offramp.exits.forward import logits_by_depth as logits_by_depth
    from offramp.exits.pabee import (
        AlbertForSequenceClassificationWithPabee as AlbertForSequenceClassificationWithPabee,
        AlbertModelWithPabee as AlbertModelWithPabee,
        BertForSequenceClassificationWithPabee as BertForSequenceClassificationWithPabee,
        BertModelWithPabee as BertModelWithPabee,
    )
    from offramp.generation.mixin import GenerationMixin as GenerationMixin
    from offramp.hub.names import Source as Source
    from offramp.models.albert import *  # noqa: F403
    from offramp.models.auto import (
        AutoConfig as AutoConfig,
        AutoModel as AutoModel,
        AutoModelForMaskedLM as AutoModelForMaskedLM,
        AutoModelForMultipleChoice as AutoModelForMultipleChoice,
        AutoModelForNextSentencePrediction as AutoModelForNextSentencePrediction,
        AutoModelForPreTraining as AutoModelForPreTraining,
        AutoModelForQuestionAnswering as AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification as AutoModelForSequenceClassification,
        AutoModelForTokenClassification as AutoModelForTokenClassification,
    )
    from offramp.models.base import (
        PreTrainedModel as PreTrainedModel,
        PretrainedModel as PretrainedModel,
        register_base_model as register_base_model,
    )
    from offramp.models.bert import *  # noqa: F403
    from offramp.models.bert import (
        BertForPretraining as BertForPretraining,
        BertPretrainedModel as BertPretrainedModel,
    )
    from offramp.models.bridge import (
        from_transformers as from_transformers,
        to_transformers as to_transformers,
    )
    from offramp.models.config import PretrainedConfig as PretrainedConfig
    from offramp.models.conversion import Conversion as Conversion
    from offramp.models.converting import convert as convert
    from offramp.models.distilbert import *  # noqa: F403
    from offramp.models.electra import *  # noqa: F403
    from offramp.models.ernie import *  # noqa: F403
    from offramp.models.inspecting import Inspection as Inspection, inspect as inspect
    from offramp.models.loading import LoadingReport as LoadingReport
    from offramp.models.mpnet import *  # noqa: F403
    from offramp.models.roberta import *  # noqa: F403
    from offramp.models.tracking import InitTrackerMeta as InitTrackerMeta
    from offramp.reporting.measuring import Report as Report, report as report
    from offramp.runner.answerer import Answer as Answer, Answerer as Answerer
    from offramp.runner.chooser import Choice as Choice, Chooser as Chooser
    from offramp.runner.classifier import (
        Classifier as Classifier,
        Prediction as Prediction,
    )
    from offramp.runner.embedder import Embedder as Embedder
    from offramp.runner.loading import load as load
    from offramp.runner.multi_label import (
        LabelSet as LabelSet,
        MultiLabelClassifier as MultiLabelClassifier,
    )
    from offramp.runner.prepare import prepare as prepare
    from offramp.runner.progress import Progress as Progress
    from offramp.runner.regressor import Estimate as Estimate, Regressor as Regressor
    from offramp.runner.reranker import Ranked as Ranked, Reranker as Reranker
    from offramp.runner.run import RowResult as RowResult, Runner as Runner
    from offramp.runner.tagger import Entity as Entity, Tagger as Tagger
    from offramp.storage.verifying import Verification as Verification, verify as verify
    from offramp.text.tables import (
        StreamedTable as StreamedTable,
        Table as Table,
        read_table as read_table,
        stream_table as stream_table,
    )
    from offramp.text.tagged import TaggedTable as TaggedTable, read_tagged as read_tagged
    from offramp.text.tokenizer import (
        Encoded as Encoded,
        Tokenizer as Tokenizer,
        Tokens as Tokens,
    )
    from offramp.training.calibrating import (
        Calibration as Calibration,
        calibrate as calibrate,
    )
    from offramp.training.entities import EntityScores as EntityScores, entity_f1 as entity_f1
    from offramp.training.evaluation import evaluate as evaluate
    from offramp.training.options import TrainingOptions as TrainingOptions
    from offramp.training.tagger import train_tagger as train_tagger
    from offramp.training.tagger_evaluation import evaluate_tagger as evaluate_tagger
    from offramp.training.thresholds import recalibrate as recalibrate
    from offramp.training.train import train as train
    from offramp.training.trainer_mixin import TrainerMixin as TrainerMixin
