"""Make tests/golden/paddle/2.3.4 and 2.4.2: what PaddleNLP wrote before it had a config.json.

    paddle/bin/pip download --no-deps paddlenlp==2.3.4
    unzip paddlenlp-2.3.4-py3-none-any.whl -d 2.3.4
    paddle/bin/python tests/golden/make_paddle_old.py 2.3.4
    ... and the same with 2.4.2

`paddle` is the environment that make_paddle.py tells of. It has Paddle 2.6, of which PaddleNLP of
that time asks for the modules of `paddle.fluid`; they moved, and some went: what is asked for there
is given from where it is now, or is an empty class. None of it is in a model. A folder is one save,
and `expected.safetensors` is as make_paddle.py's.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scipy  # noqa: F401  # this and zlib come before paddle, whose libraries clash with theirs

import numpy as np  # isort: skip
import paddle  # isort: skip

SIZES = {
    "vocab_size": 24,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}


def cases(nlp: Any, version: str) -> dict[str, Callable[[], Any]]:
    """{folder: a model's construction}: how it was called is what model_config.json keeps."""

    def bert() -> Any:
        return nlp.BertModel(**SIZES)

    if version == "2.4.2":
        by_keyword = "BertForSequenceClassification"
        return {by_keyword: lambda: nlp.BertForSequenceClassification(bert=bert(), num_classes=3)}
    return {
        "BertModel": lambda: nlp.BertModel(24, 8, 2, 2, 12, "relu", 0.0, 0.1, 16, 3, 0.02, 0),
        "BertForPretraining": lambda: nlp.BertForPretraining(bert()),
        "BertForSequenceClassification": lambda: nlp.BertForSequenceClassification(bert(), 3, 0.0),
        "ErnieForMaskedLM": lambda: nlp.ErnieForMaskedLM(nlp.ErnieModel(**SIZES)),
        "RobertaForSequenceClassification": lambda: nlp.RobertaForSequenceClassification(
            nlp.RobertaModel(**SIZES), num_classes=3
        ),
        "RobertaForMaskedLM": lambda: nlp.RobertaForMaskedLM(nlp.RobertaModel(**SIZES)),
        "AlbertModel": lambda: nlp.AlbertModel(24, 6, 8, 2, 1, 2, 12, 1, "relu", 0.0, 0.0, 16),
        "AlbertForMaskedLM": lambda: nlp.AlbertForMaskedLM(
            nlp.AlbertModel(**SIZES, embedding_size=6)
        ),
    }


def main(package: Path) -> None:
    stand_in_for_fluid()
    sys.path.insert(0, str(package.absolute()))
    nlp, version = importlib.import_module("paddlenlp.transformers"), package.name
    assert importlib.import_module("paddlenlp").__version__ == version
    folder = Path(__file__).parent / "paddle" / version
    answers: dict[str, Any] = {}
    for name, construct in cases(nlp, version).items():
        model = construct()
        model.eval()
        give_numbers(model)
        (folder / name).mkdir(parents=True, exist_ok=True)
        model.save_pretrained(str(folder / name))
        ids = np.random.default_rng(4).integers(1, 24, (3, 8))
        ids[1, -3:] = ids[2, -1:] = ids[2, 4] = 0
        with paddle.no_grad():
            given = model(paddle.to_tensor(ids))
        answers[f"{name}/in/input_ids"] = ids
        for n, output in enumerate(given if isinstance(given, tuple) else (given,)):
            answers[f"{name}/out/{n}"] = output.numpy()
    from safetensors.numpy import save_file

    made_by = {"made by": f"PaddleNLP {version}, Paddle {paddle.__version__}"}
    save_file(answers, folder / "expected.safetensors", made_by)


def give_numbers(model: Any) -> None:
    """Numbers that all show: initial ones would hide a bias or a norm left out."""
    family = type(model).__name__
    generator, seen = np.random.default_rng(zlib.crc32(family.encode())), set()
    for name, parameter in model.named_parameters():
        if id(parameter) in seen:  # tied
            continue
        seen.add(id(parameter))
        numbers = 0.4 * generator.standard_normal(parameter.shape)
        if parameter.ndim == 1 and name.endswith("weight"):
            numbers += 1  # of a norm
        if name.endswith("word_embeddings.weight") and not family.startswith("Bert"):
            numbers[0] = 0  # the pad's, as PaddleNLP makes it, and looks it up
        parameter.set_value(numbers.astype("float32"))


# ---------------------------------------------------------------------- paddle.fluid


class _Module(types.ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


class _Fluid(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds paddle.fluid and all under it: paddle.base has what is left of it."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname == "paddle.common_ops_import" or f"{fullname}.".startswith("paddle.fluid."):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Any:
        module = _Module(spec.name)
        moved = {"paddle.fluid.layers.utils": "paddle.utils.layers_utils"}
        now = moved.get(spec.name, spec.name.replace("paddle.fluid", "paddle.base"))
        try:
            found = vars(importlib.import_module(now)) if now != spec.name else {}
        except ImportError:
            found = {}
        vars(module).update({key: found[key] for key in found if not key.startswith("__")})
        return module

    def exec_module(self, module: Any) -> None:
        pass


def stand_in_for_fluid() -> None:
    sys.meta_path.insert(0, _Fluid())
    paddle.fluid = importlib.import_module("paddle.fluid")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
