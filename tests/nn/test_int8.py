"""Products of eight-bit numbers: exact where they can be, and each row by itself."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.nn.activations import ACTIVATIONS
from offramp.nn.prepared import Int8Linear, can_prepare

pytestmark = pytest.mark.skipif(
    not can_prepare(torch.float32, True), reason="this torch has no eight-bit kernels here"
)


def drawn(width: int, out: int, *, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(width, out, bias=bias).requires_grad_(False)


@torch.inference_mode()
def test_whole_numbers_are_multiplied_exactly() -> None:
    """Weights and inputs of -127 to 127, with 127 in every row, are what they are rounded to."""
    torch.manual_seed(0)
    most = 127 if torch.cpu._is_vnni_supported() else 63
    weight_OI = torch.randint(-127, 128, (20, 33)).float()
    x_TI = torch.randint(-most, most + 1, (7, 33)).float()
    weight_OI[:, 0], x_TI[:, 5] = 127, most
    linear = drawn(33, 20)
    linear.weight.copy_(weight_OI)
    expected = x_TI.double() @ weight_OI.double().T + linear.bias.double()
    torch.testing.assert_close(Int8Linear(linear)(x_TI).double(), expected, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_the_error_is_a_hundredth_of_the_spread(bias: bool, activation: str) -> None:
    linear = drawn(384, 200, bias=bias)
    act = ACTIVATIONS.get(activation, nn.Identity())
    x_BLI = torch.randn(3, 40, 384)
    expected = act(F.linear(x_BLI.double(), linear.weight.double(), _double(linear.bias)))
    prepared = Int8Linear(linear)
    found = prepared(x_BLI) if activation == "none" else prepared.activated(x_BLI, act)
    assert found.shape == (3, 40, 200)
    share = 0.015 if torch.cpu._is_vnni_supported() else 0.025
    assert (found - expected).std() < share * expected.std()
    added = prepared.added(x_BLI, found)
    torch.testing.assert_close(added, prepared(x_BLI) + found)


def _double(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.double()


@torch.inference_mode()
def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    prepared = Int8Linear(drawn(384, 300))
    x_TI = torch.randn(300, 384)
    x_TI[7] *= 1e4  # one scale for all would leave the others no digits
    together = prepared.activated(x_TI, F.gelu)
    for n_rows in (1, 2, 17, 64):
        for start in (0, 5, 200):
            rows = slice(start, start + n_rows)
            assert torch.equal(prepared.activated(x_TI[rows], F.gelu), together[rows])


@torch.inference_mode()
def test_rows_of_nothing() -> None:
    linear = drawn(40, 24)
    linear.weight[3] = 0
    prepared = Int8Linear(linear)
    assert prepared(torch.zeros(0, 40)).shape == (0, 24)
    torch.testing.assert_close(prepared(torch.zeros(2, 40)), linear.bias.expand(2, -1))
    assert prepared(torch.randn(5, 40))[:, 3].allclose(linear.bias[3])
    x_TI = torch.randn(3, 40)
    x_TI[1, 4] = torch.nan
    found = prepared(x_TI)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], prepared(x_TI[[0, 2]]))


@torch.inference_mode()
def test_it_travels() -> None:
    prepared, x_TI = Int8Linear(drawn(40, 24)), torch.randn(5, 40)
    assert torch.equal(pickle.loads(pickle.dumps(prepared))(x_TI), prepared(x_TI))


def test_a_processor_without_instructions_for_eight_bits() -> None:
    """The tests above, where oneDNN uses AVX2's sums in sixteen bits and torch tells so."""
    program = """
import sys, pytest, torch
torch.cpu._is_vnni_supported = lambda: False
sys.exit(pytest.main(["-q", "-rs", "-p", "no:cacheprovider", "-k", "not processor", sys.argv[1]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, __file__],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "SKIPPED" not in done.stdout
