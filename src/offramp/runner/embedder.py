"""Texts in, one vector a text out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from offramp.errors import ConfigError, DataError, nearest
from offramp.models.base import PretrainedModel
from offramp.models.flow import Flow
from offramp.nn.pooling import pool_first, pool_last, pool_max, pool_mean
from offramp.runner.ahead import ahead
from offramp.runner.head_calls import body
from offramp.runner.prepare import prepared
from offramp.runner.progress import Meter, OnProgress
from offramp.runner.rows import gather, n_tokens, read_rows
from offramp.runner.sentence_files import SentenceLayout, write_layout
from offramp.runner.text_model import TextModel, check_call
from offramp.runner.threads import cpu_threads
from offramp.text.tokenizer import Encoded, Tokenizer

POOLERS = {"first": pool_first, "last": pool_last, "mean": pool_mean, "max": pool_max}

Pooling: TypeAlias = str | Sequence[str]
"""`first`, `last`, `mean` or `max`; several are joined in their order."""


class Embedder(TextModel):
    """A model that gives each text a vector, and its tokenizer. Safe to call from several threads.

    `layout` says what becomes of the hidden states after the last layer; by default their mean.
    """

    def __init__(
        self, model: PretrainedModel, tokenizer: Tokenizer, layout: SentenceLayout | None = None
    ) -> None:
        super().__init__(model, tokenizer)
        self._layout = layout or SentenceLayout()
        _check_pooling(self._layout.pooling)
        self._check_width(self._layout)
        for dense in self._layout.dense:
            dense.to(device=model.device, dtype=model.dtype).eval()

    @property
    def layout(self) -> SentenceLayout:
        """What becomes of the hidden states where a call does not say otherwise."""
        return self._layout

    @property
    def width(self) -> int:
        """D, the length of a vector."""
        return self._width(self.layout)

    @property
    def prompts(self) -> dict[str, str]:
        """What may be put before a text, by name."""
        return dict(self.layout.prompts)

    @overload
    def embed(
        self,
        texts: Iterable[str],
        *,
        pooling: Pooling | None = ...,
        normalize: bool | None = ...,
        prompt: str | None = ...,
        prompt_name: str | None = ...,
        threads: int | None = ...,
        as_tensor: Literal[False] = ...,
    ) -> npt.NDArray[np.float32]: ...

    @overload
    def embed(
        self,
        texts: Iterable[str],
        *,
        pooling: Pooling | None = ...,
        normalize: bool | None = ...,
        prompt: str | None = ...,
        prompt_name: str | None = ...,
        threads: int | None = ...,
        as_tensor: Literal[True],
    ) -> Tensor: ...

    def embed(
        self,
        texts: Iterable[str],
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        threads: int | None = None,
        as_tensor: bool = False,
    ) -> npt.NDArray[np.float32] | Tensor:
        """A vector for each text, [R, D] float32 on the host, in their order.

        The model's own pooling, and whether vectors are given length 1, are those of its
        sentence-transformers files; without such files the tokens' mean, as it is. `pooling` is
        `first`, `last`, `mean` or `max`, or several, which are joined. `prompt` is put before each
        text; `prompt_name` is one of `prompts` ("" is no prompt; by default the model's own).
        `as_tensor` gives a tensor in place of an array. A vector's last digits depend on the rows
        that are embedded with it.
        """
        layout = self._asked(pooling, normalize)
        windows = self._windows(texts, layout, prompt, prompt_name, threads)
        parts = list(windows) or [torch.zeros(0, self._width(layout))]
        vectors_RD = torch.cat(parts)
        return vectors_RD if as_tensor else cast(npt.NDArray[np.float32], vectors_RD.numpy())

    def stream(
        self,
        texts: Iterable[str],
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        threads: int | None = None,
        progress: OnProgress | None = None,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """`embed` for any number of texts in bounded memory: one vector [D] after the other.

        `progress` is called after each window.
        """
        layout = self._asked(pooling, normalize)
        windows = self._windows(texts, layout, prompt, prompt_name, threads, progress)
        # Each has memory of its own: one that is kept must not keep its window.
        return (vector_D.clone().numpy() for window_RD in windows for vector_D in window_RD)

    def write_files(self, directory: Path) -> None:
        """Write the model's and the tokenizer's files, and sentence-transformers' beside them."""
        super().write_files(directory)
        write_layout(directory, self.layout, self._body_width, self.tokenizer.max_length)

    def _windows(
        self,
        texts: Iterable[str],
        layout: SentenceLayout,
        prompt: str | None,
        prompt_name: str | None,
        threads: int | None,
        progress: OnProgress | None = None,
    ) -> Iterator[Tensor]:
        check_call(texts, threads, "embed")
        before = self._prompt(prompt, prompt_name)
        if before and not layout.pools_prompt:
            raise ConfigError(
                "This model leaves the prompt's tokens out of the pooling (include_prompt is false "
                'in its files), which offramp cannot do. Pass prompt="" to embed without a prompt.'
            )
        return self._vectors(texts, before, layout, threads, progress)

    def _vectors(
        self,
        texts: Iterable[str],
        before: str,
        layout: SentenceLayout,
        threads: int | None,
        progress: OnProgress | None,
    ) -> Iterator[Tensor]:
        meter = Meter(progress)

        def gathered(rows: Iterator[str]) -> Iterator[list[Encoded]]:
            return gather(self.encoded(_prepared(rows, before, layout.lowercase)))

        def read(flow: Flow) -> Tensor:
            pooled = [POOLERS[name](flow.hidden, flow.layout) for name in layout.pooling]
            vectors_RD = pooled[0] if len(pooled) == 1 else torch.cat(pooled, -1)
            for dense in layout.dense:
                vectors_RD = dense(vectors_RD)
            return F.normalize(vectors_RD, dim=-1) if layout.normalize else vectors_RD

        # A body that pools first tokens can run its last layer for them alone.
        first = set(layout.pooling) == {"first"} and getattr(self.stack, "pools_first", False)
        with ahead(texts, gathered) as windows:
            for window in windows:
                with cpu_threads(threads):
                    stack = body(prepared(self.model))
                    vectors_RD = read_rows(
                        stack, window, read, self.model.device, first_alone=first
                    )
                self.check_finite(vectors_RD)
                meter.add(len(window), n_tokens(window), len(window) * self.stack.n_layers)
                yield vectors_RD.float().cpu()

    def _asked(self, pooling: Pooling | None, normalize: bool | None) -> SentenceLayout:
        """The layout with what a call changes."""
        layout = self.layout
        if pooling is not None:
            names = (pooling,) if isinstance(pooling, str) else tuple(pooling)
            _check_pooling(names)
            layout = replace(layout, pooling=names)
            self._check_width(layout)
        if normalize is not None:
            layout = replace(layout, normalize=normalize)
        return layout

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None and name is not None:
            raise ConfigError("Pass either prompt= or prompt_name=, and not both.")
        if prompt is not None:
            return prompt
        name = self.layout.default_prompt if name is None else name
        if not name:
            return ""
        if name not in self.layout.prompts:
            raise ConfigError(
                f"This model has no prompt {name!r}. {nearest(name, self.layout.prompts)} "
                "Pass prompt= for a text of your own."
            )
        return self.layout.prompts[name]

    @property
    def _body_width(self) -> int:
        return int(self.model.config.hidden_size)

    def _width(self, layout: SentenceLayout) -> int:
        if layout.dense:
            return layout.dense[-1].linear.out_features
        return self._body_width * len(layout.pooling)

    def _check_width(self, layout: SentenceLayout) -> None:
        width = self._body_width * len(layout.pooling)
        for dense in layout.dense:
            if dense.linear.in_features != width:
                raise ConfigError(
                    f"Vectors of {width} numbers ({' + '.join(layout.pooling)}) go into a Dense "
                    f"of this model that takes {dense.linear.in_features}."
                )
            width = dense.linear.out_features


def _prepared(texts: Iterable[str], before: str, lowercase: bool) -> Iterator[str]:
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"Row {row} is a {type(text).__name__}; embed takes texts.")
        text = before + text
        yield text.lower() if lowercase else text


def _check_pooling(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in POOLERS]
    if unknown or not names or len(set(names)) < len(names):
        raise ConfigError(
            f"pooling is one of {', '.join(POOLERS)}, or several of them, each once; "
            f"got {unknown or names[:5]}."
        )
