"""Make tests/golden/paddle: tiny models, and files of every other kind, written by PaddleNLP alone.

    python3.11 -m venv paddle
    paddle/bin/pip install paddlepaddle==2.6.2 paddlenlp==2.8.1 aistudio-sdk==0.2.6 numpy==1.26.4
    paddle/bin/python tests/golden/make_paddle.py

Each class of a family has a folder, as `save_pretrained` wrote it; beside them
`expected.safetensors` holds what PaddleNLP answered without a mask, under `Class/in/...` and
`Class/out/0`, `Class/out/1`, ... The folders under `formats` hold models of the folders before in
other files. tests/golden/paddle/README.md lists them.
"""

from __future__ import annotations

import inspect
import json
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import scipy  # noqa: F401  # this and zlib come before paddle, whose libraries clash with theirs

import numpy as np  # isort: skip
import paddle  # isort: skip
import paddle.framework.io as paddle_io  # isort: skip
import paddlenlp.transformers as nlp  # isort: skip
from paddlenlp.transformers.ernie.modeling import UIE  # isort: skip
from safetensors.numpy import save_file  # isort: skip

FOLDER = Path(__file__).parent / "paddle"
FORMATS = FOLDER / "formats"
SIZES = {
    "vocab_size": 24,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "type_vocab_size": 3,
}
HEADS = (
    "Model",
    "ForPretraining",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
FAMILIES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    # folder: what the classes' names begin with, how they end, settings
    "bert": ("Bert", HEADS, {}),
    "ernie": ("Ernie", HEADS, {}),
    "ernie_task_id": (
        "Ernie",
        ("ForSequenceClassification",),
        # a layer_norm_eps that shows, since ERNIE has 1e-12 whatever this says
        {"use_task_id": True, "task_id": 1, "layer_norm_eps": 0.001},
    ),
    "roberta": (
        "Roberta",
        tuple(head.replace("ForPretraining", "ForCausalLM") for head in HEADS),
        {},
    ),
    "albert": ("Albert", HEADS, {"embedding_size": 6, "inner_group_num": 2}),
}


def main() -> None:
    for family, (start, endings, settings) in FAMILIES.items():
        answers: dict[str, Any] = {}
        for name in [start + ending for ending in endings]:
            model = new_model(getattr(nlp, name), **settings)
            model.save_pretrained(FOLDER / family / name)
            case = {f"{name}/in/{key}": value for key, value in rows(name).items()}
            outputs = {f"{name}/out/{n}": value for n, value in enumerate(answers_of(model))}
            answers |= case | outputs
        made_by = {"made by": f"PaddleNLP 2.8.1, Paddle {paddle.__version__}"}
        save_file(answers, FOLDER / family / "expected.safetensors", made_by)
    new_model(UIE).save_pretrained(FORMATS / "uie")
    saved("BertForPretraining").save_pretrained(FORMATS / "sharded", max_shard_size="2KB")
    saved("AlbertModel").save_pretrained(FORMATS / "safetensors", safe_serialization=True)
    half = saved("BertForSequenceClassification")
    half.to(dtype="bfloat16")
    half.save_pretrained(FORMATS / "bfloat16")
    half.save_pretrained(FORMATS / "bfloat16_safetensors", safe_serialization=True)
    write_parts()
    write_what_is_no_layer()


# ---------------------------------------------------------------------- models


def new_model(kind: Any, **settings: Any) -> Any:
    """A model whose numbers all show: initial ones would hide a bias or a norm left out."""
    if kind.__name__.endswith(("ForSequenceClassification", "ForTokenClassification")):
        settings = {"num_labels": 3, **settings}
    if kind.__name__.endswith("ForMultipleChoice"):
        settings = {"num_choices": 2, **settings}
    model = kind(kind.config_class(**SIZES, **settings))
    generator = np.random.default_rng(zlib.crc32(kind.__name__.encode()))
    for name, parameter in model.named_parameters():  # a tied one comes once
        numbers = 0.4 * generator.standard_normal(parameter.shape)
        if parameter.ndim == 1 and name.endswith("weight"):
            numbers += 1  # of a norm
        if name.endswith("word_embeddings.weight") and model.config.model_type != "bert":
            numbers[model.config.pad_token_id] = 0  # as PaddleNLP makes it, and looks it up
        parameter.set_value(numbers.astype("float32"))
    model.eval()
    return model


def saved(name: str) -> Any:
    """One of the models before, again."""
    family = next(family for family, (start, *_) in FAMILIES.items() if name.startswith(start))
    model = getattr(nlp, name).from_pretrained(str(FOLDER / family / name))
    model.eval()
    return model


def rows(name: str) -> dict[str, Any]:
    """Three rows, or three with two choices each; pads at the end of two, and inside of one."""
    generator = np.random.default_rng(4)
    shape = (3, 2, 8) if name.endswith("ForMultipleChoice") else (3, 8)
    ids, kinds = generator.integers(1, 24, shape), generator.integers(0, 3, shape)
    ids[1, ..., -3:] = ids[2, ..., -1:] = ids[2, ..., 4] = 0
    return {"input_ids": ids, "token_type_ids": kinds}


def answers_of(model: Any) -> Iterator[Any]:
    """What the model gives for its rows without a mask, one after the other."""
    arguments = {key: paddle.to_tensor(value) for key, value in rows(type(model).__name__).items()}
    with paddle.no_grad():
        given = model(**arguments)
    for output in given if isinstance(given, tuple) else (given,):
        yield output.numpy()


# ---------------------------------------------------------------------- other files


def write_parts() -> None:
    """A model in a pickle of protocol 2, its larger arrays in parts."""
    name, folder = "BertForSequenceClassification", FORMATS / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(FOLDER / "bert" / name / "config.json", folder)
    with pieces_of(200):
        paddle.save(saved(name).state_dict(), str(folder / "model_state.pdparams"), protocol=2)


@contextmanager
def pieces_of(limit: int) -> Iterator[None]:
    """Paddle's own way with arrays of over a gibibyte, for those of over `limit` bytes."""
    own = paddle_io._unpack_saved_dict
    source = inspect.getsource(own)
    assert source.count("2**30 - 1") == 1
    space = dict(own.__globals__)
    exec(source.replace("2**30 - 1", str(limit)), space)
    paddle_io._unpack_saved_dict = space["_unpack_saved_dict"]
    try:
        yield
    finally:
        paddle_io._unpack_saved_dict = own


def write_what_is_no_layer() -> None:
    """A LoDTensor, which pickles as text to be evaluated; a tensor in Paddle's own bytes; programs
    of a static graph, whose .pdparams is a pickle after all."""
    tensor = paddle.to_tensor(np.arange(12, dtype="float32").reshape(3, 4))
    lod = {"w": tensor.value().get_tensor(), "epoch": 3}
    paddle.save(lod, str(FORMATS / "lod.pdparams"))
    paddle.save(tensor, str(FORMATS / "binary.pdparams"), use_binary_format=True)

    paddle.enable_static()
    paddle.seed(4)
    main, start = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, start):
        inputs = paddle.static.data("x", [None, 5], "float32")
        output = paddle.static.nn.fc(inputs, 3, name="first")
    executor = paddle.static.Executor(paddle.CPUPlace())
    executor.run(start)
    paddle.static.save(main, str(FORMATS / "program"))
    (FORMATS / "program.pdmodel").unlink()
    (FORMATS / "program.pdopt").unlink(missing_ok=True)
    inference = str(FORMATS / "inference")
    paddle.static.save_inference_model(inference, [inputs], [output], executor, program=main)
    (FORMATS / "inference.pdmodel").unlink()
    scope = paddle.static.global_scope()
    weights = {
        variable.name: np.array(scope.find_var(variable.name).get_tensor()).tolist()
        for variable in main.list_vars()
        if variable.persistable
    }
    (FORMATS / "program.json").write_text(json.dumps(weights, indent=1) + "\n")


if __name__ == "__main__":
    main()
