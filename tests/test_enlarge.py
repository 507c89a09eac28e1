"""Pictures several times as large, against PyTorch's interpolation."""

import pytest
import torch
from torch.nn.functional import interpolate

from unsmear.ops.enlarge import enlarge


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 17), (16, 32), (45, 80)])
def test_is_bicubic_interpolation(size, factor):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = interpolate(x, scale_factor=factor, mode="bicubic")
    torch.testing.assert_close(enlarge(x, factor), expected, rtol=1e-12, atol=1e-12)


def test_has_gradients():
    x = torch.randn(1, 2, 3, 18, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: enlarge(x, 2), x)
