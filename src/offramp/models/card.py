"""A model card: what people and the hub read first of a repository.

https://huggingface.co/docs/hub/model-cards says what its metadata may hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from offramp.checkpoints.card import marked
from offramp.errors import shown

PIPELINES = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "Model": "feature-extraction",
}
"""How a class's name ends: what the hub calls its task."""
_SIZES = (
    ("num_hidden_layers", "layers"),
    ("hidden_size", "width"),
    ("num_attention_heads", "attention heads"),
    ("vocab_size", "words and pieces"),
)
_MOST_LABELS = 50


def model_card(
    config: Mapping[str, Any],
    repo_id: str,
    subfolder: str | None = None,
    certificate: str | None = None,
    tags: Sequence[str] = (),
) -> str:
    """The text of README.md, from what config.json says.

    `certificate` is what `certificate_card` says of the exits, where it still holds: it is not read
    from the configuration, which cannot know. It stands between the marks by which a later save of
    the model finds it again.
    """
    architecture = _first(config.get("architectures"))
    family = config.get("model_type")
    exits = config.get("exits")
    exits = exits if isinstance(exits, Mapping) else None
    kinds = ["offramp", *(["early-exit"] if exits else []), *([str(family)] if family else [])]
    parts = [
        f"---\n{_metadata(architecture, [*kinds, *tags])}\n---\n",
        f"# {repo_id.rpartition('/')[2]}\n",
        _about(config, architecture),
        _usage(repo_id, subfolder, architecture),
    ]
    if exits is not None:
        parts.append(_exits(exits, certificate))
    return "\n".join(part for part in parts if part)


def _metadata(architecture: str, tags: Sequence[str]) -> str:
    from huggingface_hub import ModelCardData

    pipeline = next((task for end, task in PIPELINES.items() if architecture.endswith(end)), None)
    about = ModelCardData(
        library_name="offramp", pipeline_tag=pipeline, tags=list(dict.fromkeys(tags))
    )
    return about.to_yaml()


def _about(config: Mapping[str, Any], architecture: str) -> str:
    sizes = [f"{config[key]} {word}" for key, word in _SIZES if isinstance(config.get(key), int)]
    what = f"`{_plain(architecture)}`" if architecture else "A model"
    lines = [f"{what}{': ' if sizes else ''}{', '.join(sizes)}.\n"]
    labels = config.get("id2label")
    if isinstance(labels, Mapping) and labels and "Classification" in architecture:
        names = [f"`{_plain(label)}`" for label in list(labels.values())[:_MOST_LABELS]]
        more = ", ..." if len(labels) > _MOST_LABELS else ""
        lines.append(f"Labels: {', '.join(names)}{more}.\n")
    return "\n".join(lines)


def _usage(repo_id: str, subfolder: str | None, architecture: str) -> str:
    if subfolder is None:
        call = f"model = offramp.load({repo_id!r})"
    else:
        known = architecture if architecture.isidentifier() else "AutoModel"
        call = f"model = offramp.{known}.from_pretrained({repo_id!r}, subfolder={subfolder!r})"
    return f"```python\nimport offramp\n\n{call}\n```\n"


def _exits(exits: Mapping[str, Any], certificate: str | None) -> str:
    """After which layers, by which criterion, what was measured, and what is proved."""
    depths = exits.get("depths")
    after = ", ".join(map(str, depths)) if isinstance(depths, list) else "some layers"
    criterion = json.dumps(exits.get("criterion"), ensure_ascii=False)
    calibration = exits.get("calibration")
    calibration = calibration if isinstance(calibration, Mapping) else {}
    lines = [
        "## Early exits\n",
        f"A row may leave after {_plain(after)} layers, where its answer is sure enough by "
        f"`{_plain(criterion)}`.\n",
    ]
    if measured := _measured(calibration):
        lines.append(measured)
    lines.append(
        marked(certificate)
        if certificate
        else "There is no certificate of what leaving early costs.\n"
    )
    return "\n".join(lines)


def _measured(calibration: Mapping[str, Any]) -> str:
    """The figures that the threshold was chosen by, as a table."""
    figures = {
        name: value
        for name, value in calibration.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    if not figures:
        return ""
    measure = _plain(calibration.get("measure", ""))
    about = f" ({measure})" if measure else ""
    lines = [f"| on the rows that chose the threshold{about} | |", "|---|---:|"]
    lines += [f"| {_plain(name)} | {value:g} |" for name, value in figures.items()]
    return "\n".join(lines) + "\n"


def _first(architectures: Any) -> str:
    listed = architectures if isinstance(architectures, (list, tuple)) else []
    return str(listed[0]) if listed else ""


def _plain(value: object) -> str:
    """What a file says, without what would end a line, a cell or a code span."""
    text = " ".join(shown(str(value), 300).split())
    return text.replace("`", "'").replace("|", "/")
