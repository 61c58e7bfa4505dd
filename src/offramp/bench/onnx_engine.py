"""ONNX Runtime in float32, after its own optimiser for transformers."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offramp.backends import requires_backends
from offramp.bench.engine import Run, Setting
from offramp.runner.rows import Row
from offramp.training.peers import padded_batches, taken, transformers_model

_OPSET = 17


class OnnxEngine:
    """transformers' model, exported; its attentions fused; rows sorted by length.

    Of transformers' attentions the exported `eager` is the one that ONNX Runtime's optimiser knows
    and makes one operator of (with `sdpa`, or from torch's newer exporter, it stays in pieces).
    """

    packages = ("onnxruntime", "onnx", "transformers")

    def __init__(self, directory: Path, setting: Setting) -> None:
        requires_backends("the ONNX Runtime side", self.packages)
        import onnxruntime

        model = transformers_model(directory, attn_implementation="eager")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setting.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            _export(model, file)
            _fuse(model, file)
            self._session: Any = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        self._batch_size = setting.batch_size

    def prepare(self, rows: Sequence[Row]) -> Run:
        """A call that answers `rows` in batches padded beforehand."""
        order, padded = padded_batches(rows, sort=True, batch_size=self._batch_size)
        names = [node.name for node in self._session.get_inputs()]
        batches = [{name: batch[name].numpy() for name in names} for batch in padded]
        back_R = np.argsort(order)

        def run() -> Tensor:
            answers = [self._session.run(["logits"], batch)[0] for batch in batches]
            return torch.from_numpy(np.concatenate(answers)[back_R])

        return run


@torch.inference_mode()
def _export(model: Any, file: Path) -> None:
    """Write the model as ONNX, with free batch sizes and lengths."""
    ones = torch.ones(2, 8, dtype=torch.int64)
    example = {"input_ids": ones + 4, "attention_mask": ones, "token_type_ids": ones * 0}
    example = taken(example, model)
    axes = {name: {0: "rows", 1: "tokens"} for name in example}
    with warnings.catch_warnings():
        # That this exporter is the older one, and that tracing fixes what Python decided.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (),
            str(file),
            kwargs=example,
            input_names=list(example),
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "rows"}},
            opset_version=_OPSET,
            dynamo=False,
        )


def _fuse(model: Any, file: Path) -> None:
    """What ONNX Runtime's optimiser for transformers makes of the file, in its place."""
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(
        str(file),
        model_type="bert",
        num_heads=model.config.num_attention_heads,
        hidden_size=model.config.hidden_size,
        opt_level=1,
        use_gpu=False,
    )
    fused.save_model_to_file(str(file))
