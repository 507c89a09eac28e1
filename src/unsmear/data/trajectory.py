"""How a camera or an object moves while the shutter is open.

A motion is an affine displacement field that changes with time. In pixels, at a point (x, y) measured
from the middle of the picture, with a nearness map n in [0, 1] (1 is nearest to the camera):

    displacement(x, y, t) = [n, 1, x, y] @ motion[t]        with motion of shape (INSTANTS, 4, 2)

so that translation scaled by nearness is parallax, and roll and zoom act on x and y about a center of
their own. On average over the exposure every motion is zero, and where it is zero is the ground truth. The instant at
mid-exposure would not do: how far it is from the average nobody can see in a blurred picture, and a network that is
asked to guess it hedges with blur. In averaged video frames, whose paths are smooth, the two nearly agree.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

INSTANTS = 129
MIN_STEPS = 7


def draw_path(num_axes: int, tremor: float, generator: torch.Generator) -> Tensor:
    """Draws one smooth path that is zero on average and spans about one unit.

    A path is a steady drift, which may bend and change speed, mixed with a tremor: a random walk whose
    velocity is itself continuous, as that of a hand that holds a mass.

    Args:
        num_axes: number of coordinates; the first two share one bent drift, further ones drift straight.
        tremor: share of the tremor in the mix, in [0, 1].
        generator: source of randomness, on the CPU.

    Returns:
        Coordinates of shape (INSTANTS, num_axes).
    """
    time = torch.linspace(-0.5, 0.5, INSTANTS)
    start, bend, haste = torch.rand(3, generator=generator).tolist()
    heading = 2 * math.pi * start + 4 * (bend - 0.5) ** 3 * 8 * time
    speed = 1 + 2 * (haste - 0.5) * time
    signs = torch.rand(max(num_axes - 2, 0), generator=generator).sub(0.5).sign()
    velocity = torch.stack([heading.cos(), heading.sin(), *signs[:, None].expand(-1, INSTANTS)], 1) * speed[:, None]
    knots = int(torch.randint(4, 17, (1,), generator=generator))
    wander = torch.randn(1, num_axes, knots, generator=generator)
    wander = functional.interpolate(wander, INSTANTS, mode="linear", align_corners=True)[0].T
    path = (1 - tremor) * _to_unit_span(velocity[:, :num_axes].cumsum(0))
    path = path + tremor * _to_unit_span(wander.cumsum(0))
    return path - path.mean(0)


def _to_unit_span(path: Tensor) -> Tensor:
    span = (path.amax(0) - path.amin(0)).norm() / math.sqrt(max(path.shape[1] / 2, 1))
    return path / span.clamp_min(1e-6)


def draw_motion(
    size: tuple[int, int],
    extent: float,
    *,
    tremor: float,
    rotation: float,
    zoom: float,
    generator: torch.Generator,
) -> Tensor:
    """Draws one motion whose largest displacement span anywhere in the picture is `extent`.

    Args:
        size: height and width of the picture in pixels.
        extent: diagonal of the box that the fastest point of the picture runs through, in pixels, >= 0.
        tremor: largest share of the tremor in the path, in [0, 1].
        rotation: largest roll, as the travel of a corner relative to the translation, >= 0.
        zoom: largest zoom, in the same measure, >= 0.
        generator: source of randomness, on the CPU.

    Returns:
        The motion, shape (INSTANTS, 4, 2), zero on average.
    """
    height, width = size
    shares = torch.rand(5, generator=generator)
    path = draw_path(4, tremor * float(shares[0]), generator)
    radius = max(math.hypot(height - 1, width - 1) / 2, 1.0)
    roll = path[:, 2] * rotation * shares[1] / radius
    scale = path[:, 3] * zoom * shares[2] / radius
    motion = torch.zeros(INSTANTS, 4, 2)
    motion[:, 0] = path[:, :2]
    motion[:, 2] = torch.stack([scale, roll], 1)
    motion[:, 3] = torch.stack([-roll, scale], 1)
    # Roll and zoom about a center off the middle of the picture.
    center_x, center_y = ((shares[3:] - 0.5) * torch.tensor([width, height])).tolist()
    motion[:, 1] = -(center_x * motion[:, 2] + center_y * motion[:, 3])
    corners = corner_paths(motion, size)
    span = (corners.amax(0) - corners.amin(0)).norm(dim=-1).amax()
    return motion * (extent / span.clamp_min(1e-6))


def corner_paths(motion: Tensor, size: tuple[int, int]) -> Tensor:
    """Displacement of the four corners of a picture, shape (INSTANTS, 4, 2), in pixels."""
    y, x = (size[0] - 1) / 2, (size[1] - 1) / 2
    corners = torch.tensor([[1, 1, -x, -y], [1, 1, x, -y], [1, 1, -x, y], [1, 1, x, y]])
    return corners @ motion


def plan_exposure(
    motions: list[Tensor], size: tuple[int, int], exposure: Tensor, max_step: float
) -> tuple[Tensor, Tensor]:
    """Chooses the instants to render, so that nothing in the picture jumps by more than a small step.

    Instants are equally spaced in travelled distance, and each is weighted by the time that the shutter
    is open around it: a slow part of the path costs no more sub-frames than its length asks for.

    Args:
        motions: motion of every layer, each (INSTANTS, 4, 2).
        size: height and width of the picture in pixels.
        exposure: shutter transmission over time, shape (INSTANTS - 1,), >= 0, not all zero.
        max_step: largest travel between neighboring sub-frames, in pixels.

    Returns:
        Fractional indices in [0, INSTANTS - 1] and weights that sum to 1, both of shape (num_steps,).
    """
    travel = torch.zeros(INSTANTS - 1)
    for motion in motions:
        travel = torch.maximum(travel, corner_paths(motion, size).diff(dim=0).norm(dim=-1).amax(-1))
    # The small addend spreads sub-frames evenly over time where nothing moves.
    way = functional.pad((travel + 1e-4).double().cumsum(0), (1, 0))
    light = functional.pad(exposure.double().cumsum(0), (1, 0))
    num_steps = max(MIN_STEPS, math.ceil(float(way[-1]) / max_step))
    marks = torch.linspace(0, 1, 2 * num_steps + 1, dtype=torch.float64) * way[-1]
    right = torch.searchsorted(way, marks).clamp(1, INSTANTS - 1)
    position = right - 1 + (marks - way[right - 1]) / (way[right] - way[right - 1])
    edges = position[::2].clamp(0, INSTANTS - 1)
    left = edges.long().clamp_max(INSTANTS - 2)
    weights = (light[left] + (edges - left) * exposure.double()[left]).diff()
    lit = weights > 0
    return position[1::2][lit].float(), (weights[lit] / weights.sum()).float()


def motion_at(motion: Tensor, instants: Tensor) -> Tensor:
    """Motion at fractional indices: (INSTANTS, 4, 2) and (num_steps,) give (num_steps, 4, 2)."""
    left = instants.long().clamp_max(INSTANTS - 2)
    return torch.lerp(motion[left], motion[left + 1], (instants - left)[:, None, None])
