"""`offramp.load(directory)`: what a directory holds, ready to take texts."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import torch

from offramp.errors import CheckpointError, ConfigError, ModelNotFoundError
from offramp.exits.calibration.certificate import check_certificate
from offramp.hub.names import Request
from offramp.models.base import PretrainedModel
from offramp.models.builtin import all_sources
from offramp.models.config_file import architecture
from offramp.models.names import locate, whole_model
from offramp.models.opening import Opening, open_model
from offramp.models.registry import find_class, identify
from offramp.runner.answerer import Answerer
from offramp.runner.chooser import Chooser
from offramp.runner.classifier import Classifier
from offramp.runner.embedder import Embedder
from offramp.runner.fingerprint import tokenizer_fingerprint
from offramp.runner.multi_label import MULTI_LABEL, MultiLabelClassifier
from offramp.runner.regressor import Regressor
from offramp.runner.reranker import Reranker
from offramp.runner.sentence_files import has_modules, read_layout
from offramp.runner.tagger import Tagger
from offramp.runner.text_model import TextModel
from offramp.storage.steady import reread, steady
from offramp.text.tokenizer import Tokenizer

TaskName: TypeAlias = Literal[
    "classify", "multilabel", "regress", "rerank", "tag", "answer", "choose", "embed"
]


@overload
def load(
    directory: str | Path,
    *,
    task: None = ...,
    device: str | torch.device = ...,
    max_length: int | None = ...,
) -> Any: ...


@overload
def load(
    directory: str | Path,
    *,
    task: Literal["classify"],
    device: str | torch.device = ...,
    max_length: int | None = ...,
) -> Classifier: ...


@overload
def load(
    directory: str | Path,
    *,
    task: Literal["embed"],
    device: str | torch.device = ...,
    max_length: int | None = ...,
) -> Embedder: ...


@overload
def load(
    directory: str | Path,
    *,
    task: Literal["rerank"],
    device: str | torch.device = ...,
    max_length: int | None = ...,
) -> Reranker: ...


@overload
def load(
    directory: str | Path,
    *,
    task: Literal["multilabel"],
    device: str | torch.device = ...,
    max_length: int | None = ...,
) -> MultiLabelClassifier: ...


@overload
def load(
    directory: str | Path,
    *,
    task: Literal["regress"],
    device: str | torch.device = ...,
    max_length: int | None = ...,
) -> Regressor: ...


@overload
def load(
    directory: str | Path,
    *,
    task: Literal["tag"],
    device: str | torch.device = ...,
    max_length: int | None = ...,
) -> Tagger: ...


@overload
def load(
    directory: str | Path,
    *,
    task: Literal["answer"],
    device: str | torch.device = ...,
    max_length: int | None = ...,
) -> Answerer: ...


@overload
def load(
    directory: str | Path,
    *,
    task: Literal["choose"],
    device: str | torch.device = ...,
    max_length: int | None = ...,
) -> Chooser: ...


@overload
def load(
    directory: str | Path,
    *,
    task: TaskName | None = ...,
    device: str | torch.device = ...,
    max_length: int | None = ...,
) -> TextModel: ...


def load(
    directory: str | Path,
    *,
    task: TaskName | None = None,
    device: str | torch.device = "cpu",
    max_length: int | None = None,
) -> Any:
    """The model in a directory, or of a built-in name, with its tokenizer: texts in, answers out.

    What it is follows from the files. A directory with sentence-transformers' modules.json, or with
    a body alone, is an `Embedder`. Of others config.json names the class: for sequence
    classification a `Classifier` (of several labels a row a `MultiLabelClassifier`; of one output a
    `Reranker`, or a `Regressor` if it is for regression and has exits), for token classification a
    `Tagger`, for question answering an `Answerer`, for multiple choice a `Chooser`; where it names
    none it is a `Classifier`. `task` says it in the files' place: "classify", "multilabel",
    "regress", "rerank", "tag", "answer", "choose" or "embed". `max_length` is in tokens; the files'
    own by default.

    Raises ModelNotFoundError for a path that is absent or no model, CheckpointError where the
    weights do not fill the model, and ConfigError for a model that has no such task.
    """
    if task is not None and task not in TASKS:
        raise ConfigError(f"task is one of {', '.join(TASKS)}; got {task!r}.")
    return reread(lambda: _loaded(directory, task, device, max_length))


def _loaded(
    name: str | Path,
    task: TaskName | None,
    device: str | torch.device,
    max_length: int | None,
) -> TextModel:
    place = _directory(name)
    with steady(place):
        return _loaded_from(name, place, task, device, max_length)


def _loaded_from(
    directory: str | Path,
    place: Path,
    task: TaskName | None,
    device: str | torch.device,
    max_length: int | None,
) -> TextModel:
    if task == "embed" or (task is None and _is_embedder(place)):
        return _embedder(directory, place, device, max_length)
    found = TASKS[task] if task else _task_of(place)
    model = _with_head(found, directory, place, device)
    if task is None and found.kind is Classifier and model.config.problem_type == MULTI_LABEL:
        found = TASKS["multilabel"]
    elif task is None and found.kind is Classifier and model.config.num_labels == 1:
        told = model.config.problem_type == "regression" or model.owns_exits
        early = told and hasattr(model, "exits")
        found = TASKS["regress" if early else "rerank"]
    tokenizer = Tokenizer.from_pretrained(place, max_length=max_length)
    if hasattr(model, "exits"):
        check_certificate(model, tokenizer_fingerprint(tokenizer))
    return found.kind(model, tokenizer)


def task_of(name: str | Path) -> TaskName:
    """As what `load` opens a path or a name, from its files: a name that its `task` may have.

    Of one output or several, a model for sequence classification is "classify".
    """
    place = _directory(name)
    if _is_embedder(place):
        return "embed"
    named = _task_of(place)
    return next(task for task, found in TASKS.items() if found is named)


@dataclass(frozen=True)
class Task:
    """What a directory is opened as: the ending of its class's name, and who takes the texts."""

    kind: type[TextModel]
    head: str
    noun: str
    remedy: str = "Train it first."


TASKS: dict[TaskName, Task] = {
    "classify": Task(
        Classifier,
        "ForSequenceClassification",
        "classifier",
        "Train it first: offramp train --model {} --data ... --output ...",
    ),
    "multilabel": Task(
        MultiLabelClassifier,
        "ForSequenceClassification",
        "multi-label classifier",
        "Train it first: offramp train --task multilabel --model {} --data ... --output ...",
    ),
    "regress": Task(
        Regressor,
        "ForSequenceClassification",
        "regression model",
        "Train it first: offramp train --task regress --model {} --data ... --output ...",
    ),
    "rerank": Task(Reranker, "ForSequenceClassification", "reranker"),
    "tag": Task(
        Tagger,
        "ForTokenClassification",
        "tagger",
        "Train it first: offramp train --task tag --model {} --data ... --output ...",
    ),
    "answer": Task(Answerer, "ForQuestionAnswering", "answerer"),
    "choose": Task(Chooser, "ForMultipleChoice", "chooser"),
    "embed": Task(Embedder, "Model", "embedder"),
}
"""By the names that `task` may have. The first of a class's name is what `load` takes it for."""


def _task_of(directory: Path) -> Task:
    """What config.json says; a classifier where it says nothing that is known here."""
    _, values = identify(directory)
    named = architecture(values)
    known = (task for task in TASKS.values() if named.endswith(task.head))
    return next(known, TASKS["classify"])


def _is_embedder(directory: Path) -> bool:
    return has_modules(directory) or _task_of(directory).kind is Embedder


def _with_head(
    task: Task, name: str | Path, directory: Path, device: str | torch.device
) -> PretrainedModel:
    """The model of a task whose class is a body with a head."""
    model_type, values = identify(directory)
    model_class = find_class(model_type, task.head, values.get("architectures"))
    model, report = open_model(model_class, directory, Opening(device=device))
    if report.initialised:
        raise CheckpointError(
            f"{name} is not a trained {task.noun}: it lacks {', '.join(report.initialised)}. "
            + task.remedy.format(name)
        )
    return model


def _embedder(
    name: str | Path, directory: Path, device: str | torch.device, max_length: int | None
) -> Embedder:
    """The body, without its pooler where the class can be without, and what follows it."""
    body, layout = read_layout(directory)
    model_type, _ = identify(body)
    model_class = find_class(model_type, TASKS["embed"].head)
    has_choice = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    options = {"add_pooling_layer": False} if has_choice else {}
    model, report = open_model(model_class, body, Opening(device=device), (), options)
    if report.initialised:
        raise CheckpointError(
            f"{name} is not a whole model: it lacks {', '.join(report.initialised)}."
        )
    tokenizer = Tokenizer.from_pretrained(body, max_length=max_length)
    if max_length is None and layout.max_length is not None:
        tokenizer.max_length = min(tokenizer.max_length, layout.max_length)
    return Embedder(model, tokenizer, layout)


def _directory(name: str | Path) -> Path:
    """Where the files are that a path or a name stands for."""
    place = locate(name, Request(), whole_model, all_sources())
    if place.file is not None:
        raise ModelNotFoundError(f"{name} is a file; pass the model's directory.")
    return place.directory
