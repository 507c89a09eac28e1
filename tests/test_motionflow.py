"""Blur along lines, its adjoint, its undoing, and the network that reads the motion."""

import math

import pytest
import torch
from networks import awake
from torch.nn import functional

from unsmear import create_model
from unsmear.errors import UsageError
from unsmear.ops.deconvolution import deconvolve
from unsmear.ops.linear_blur import linear_blur, linear_blur_adjoint
from unsmear.train.loss import restoration_loss


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def constant(u, v, height, width, batch=1, dtype=torch.float64):
    return torch.tensor([u, v], dtype=dtype).view(1, 2, 1, 1).expand(batch, 2, height, width)


def picture(size=72, seed=0):
    """Boxes of even color, in which edges are sparse as in photographs, (1, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((1, 3, size, size), 0.5)
    for _ in range(60):
        top, left = torch.randint(0, size - 4, (2,), generator=generator).tolist()
        height, width = torch.randint(3, 16, (2,), generator=generator).tolist()
        x[..., top : top + height, left : left + width] = torch.rand(1, 3, 1, 1, generator=generator)
    return x


def psnr(x, y):
    inner = (x - y)[..., 12:-12, 12:-12]
    return -10 * math.log10(inner.square().mean())


def interpolate(x, row, column):
    """The value of x (C, H, W) between pixels; beyond the border it goes on as it ends."""
    height, width = x.shape[1:]
    row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
    top, left = min(int(row), height - 2), min(int(column), width - 2)
    down, right = row - top, column - left
    upper = x[:, top, left] * (1 - right) + x[:, top, left + 1] * right
    lower = x[:, top + 1, left] * (1 - right) + x[:, top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def test_the_blur_is_the_mean_along_the_line():
    """Word by word: the integral of what is linear between points one pixel apart, by many small pieces."""
    x, flow = random(2, 5, 6), random(2, 5, 6, seed=1, scale=3.0)
    flow[:, 0, 0] = 0
    expected = torch.empty_like(x)
    pieces = 4000
    for row in range(5):
        for column in range(6):
            u, v = flow[:, row, column].tolist()
            length = math.hypot(u, v)
            if length == 0:
                expected[:, row, column] = x[:, row, column]
                continue
            reach = math.ceil(length / 2) + 1
            points = [interpolate(x, row + k * v / length, column + k * u / length) for k in range(-reach, reach + 1)]
            along = ((torch.arange(pieces, dtype=torch.float64) + 0.5) / pieces - 0.5) * length + reach
            left = along.floor().long()
            values, share = torch.stack(points), (along - left)[:, None]
            expected[:, row, column] = (values[left] * (1 - share) + values[left + 1] * share).mean(0)
    torch.testing.assert_close(linear_blur(x[None], flow[None])[0], expected, rtol=0, atol=1e-5)


def test_motion_along_the_axes_is_a_box():
    x = random(1, 3, 9, 16)
    box = functional.conv2d(x, torch.full((3, 1, 1, 5), 0.2, dtype=x.dtype), groups=3)
    # A line of 5 pixels from a pixel's center ends between pixels: both triangles at the ends are cut.
    ends = torch.tensor([0.125, 0.875, 1, 1, 1, 0.875, 0.125], dtype=x.dtype) / 5
    triangles = functional.conv2d(x, ends.view(1, 1, 1, 7).expand(3, 1, 1, 7), groups=3)
    blurred = linear_blur(x, constant(5.0, 0.0, 9, 16))
    torch.testing.assert_close(blurred[..., 3:-3], triangles)
    assert (blurred[..., 2:-2] - box).abs().max() < 0.3
    torch.testing.assert_close(linear_blur(x.mT, constant(0.0, 5.0, 16, 9)), blurred.mT)


def test_no_motion_is_no_blur_and_direction_has_no_sign():
    x, flow = random(1, 3, 6, 9), random(1, 2, 6, 9, seed=1, scale=4.0)
    torch.testing.assert_close(linear_blur(x, torch.zeros_like(flow)), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(linear_blur(x, -flow), linear_blur(x, flow))
    torch.testing.assert_close(linear_blur(x, constant(300.0, 0.0, 6, 9)), linear_blur(x, constant(54.0, 0.0, 6, 9)))
    even = torch.full_like(x, 0.7)
    torch.testing.assert_close(linear_blur(even, flow), even)


def test_the_adjoint_is_exact():
    x, y, flow = random(2, 3, 11, 14), random(2, 3, 11, 14, seed=1), random(2, 2, 11, 14, seed=2, scale=6.0)
    torch.testing.assert_close(
        (linear_blur(x, flow) * y).sum(), (x * linear_blur_adjoint(y, flow)).sum(), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("function", [linear_blur, linear_blur_adjoint])
def test_gradients_of_both_arguments(function):
    x, flow = random(2, 2, 4, 5).requires_grad_(), random(2, 2, 4, 5, seed=3, scale=2.5).requires_grad_()
    assert torch.autograd.gradcheck(function, (x, flow))


def test_gradients_pass_through_the_deconvolution():
    x, flow = random(1, 1, 3, 4, scale=0.2).add(0.5).requires_grad_(), random(1, 2, 3, 4, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, flow: deconvolve(x, flow, rounds=2, steps=2), (x, flow), rtol=5e-3)


@pytest.mark.parametrize("motion", [(9.0, 0.0), (5.0, 6.0), (2.0, -8.0)])
def test_known_motion_is_undone(motion):
    sharp = picture()
    flow = constant(*motion, 72, 72, dtype=torch.float32)
    noise = torch.randn(sharp.shape, generator=torch.Generator().manual_seed(1))
    blurred = linear_blur(sharp, flow) + 0.003 * noise
    restored = deconvolve(blurred, flow)
    assert psnr(restored, sharp) > psnr(blurred, sharp) + 5
    wrong = deconvolve(blurred, flow.flip(1) * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
    assert psnr(wrong, sharp) < psnr(restored, sharp) - 5


def test_motion_that_differs_from_place_to_place_is_undone():
    sharp = picture()
    ramp = torch.linspace(0, 10, 72)
    flow = torch.stack([ramp.expand(72, 72), 0.5 * ramp[:, None].expand(72, 72)])[None]
    blurred = linear_blur(sharp, flow)
    assert psnr(deconvolve(blurred, flow), sharp) > psnr(blurred, sharp) + 4


def test_pictures_without_blur_or_anything_else_stay():
    sharp = picture(48)
    still = torch.zeros(1, 2, 48, 48)
    assert psnr(deconvolve(sharp, still), sharp) > 45
    black = torch.zeros_like(sharp)
    torch.testing.assert_close(deconvolve(black, constant(7.0, 3.0, 48, 48, dtype=torch.float32)), black)


def test_the_flow_is_within_the_classes_and_starts_small():
    network = create_model("motionflow", widths=(4, 4, 8, 8, 8))
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        flow = network.flow(x)
        assert flow.shape == (2, 2, 32, 48)
        assert flow.norm(dim=1).max() < 4
        network.scores[0].bias.copy_(10 * (network.classes == 30))
        right, down = network.flow(x).unbind(1)
    torch.testing.assert_close(right, torch.full_like(right, 30.0), rtol=0.1, atol=0)
    torch.testing.assert_close(down, torch.full_like(down, 30.0), rtol=0.1, atol=0)


def test_training_finds_the_motion():
    """From pictures alone: the loss is that of every other network."""
    sharp = picture(48)
    blurred = linear_blur(sharp, constant(6.0, 0.0, 48, 48, dtype=torch.float32))
    torch.manual_seed(0)
    network = create_model("motionflow", widths=(8, 8, 16, 16, 16))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(25):
        loss = restoration_loss(network.estimates(blurred), sharp, name="mse", lower_weight=0.3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        right, down = network.flow(blurred).mean((0, 2, 3)).tolist()
        gain = psnr(network(blurred), sharp) - psnr(blurred, sharp)
    assert 5 < right < 7
    assert abs(down) < 1
    assert gain > 3


def test_contradictions_are_refused():
    with pytest.raises(UsageError, match="5 convolutions, not 2"):
        create_model("motionflow", widths=(3, 4))
    with pytest.raises(UsageError, match="at least 1"):
        create_model("motionflow", steps=0)
    with pytest.raises(UsageError, match="within 54 pixels"):
        create_model("motionflow", farthest_down=60)


def test_every_picture_gets_the_same_whatever_is_beside_it():
    network = awake(create_model("motionflow", widths=(4, 4, 8, 8, 8)))
    with torch.no_grad():
        network.scores[0].bias[20] += 5  # of the motion to the right
        x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        still = torch.full_like(x, 0.5)
        torch.testing.assert_close(network(torch.cat([x, still]))[:1], network(x), rtol=1e-4, atol=1e-4)
