"""`TrainerMixin`: whole directories from transformers' Trainer, which is not imported here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offramp.models.base import PretrainedModel

TRAINING_ARGUMENTS_FILE = "training_args.bin"
"""Where the Trainer keeps its arguments."""


class TrainerMixin:
    """Lets transformers' `Trainer` save a model of offramp as it saves transformers' own.

        class Trainer(offramp.TrainerMixin, transformers.Trainer): ...

    Of other classes than transformers' the Trainer itself saves a bare state dict, without
    config.json, and it raises RuntimeError for one with tied weights. With the mixin `save_model`
    and each checkpoint are directories that `from_pretrained` opens, `resume_from_checkpoint` and
    `load_best_model_at_end` included. What is no model of offramp (a PeftModel) is saved as ever.
    """

    def _save(
        self: Any, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None
    ) -> None:
        # Not save_model, which is the public name: it gathers the state dict of a sharded model.
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if not isinstance(model, PretrainedModel):
            super()._save(output_dir, state_dict)  # type: ignore[misc]
            return
        if not self.args.should_save:
            return
        directory = Path(self.args.output_dir if output_dir is None else output_dir)
        model.save_pretrained(directory, state_dict=state_dict)
        tokenizer = self.processing_class
        if tokenizer is None:
            tokenizer = getattr(self.data_collator, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        torch.save(self.args, directory / TRAINING_ARGUMENTS_FILE)
