"""Filters that change slowly across a picture: efficient filter flow (Hirsch, Sra, Schoelkopf and Harmeling, 2010).

At places `spacing` pixels apart there are filters, and in between the results of the four around are blended linearly:

    filtered(p) = sum over places c, sum over offsets q of blend_c(p) * filter_c(q) * picture(p + q)

Every filter is a mixture of a few, which is made first: so it takes a fraction of the multiplications of filtering the
whole picture with each of the few, and hardly longer for more of them. On processors a compiled kernel filters pixel by
pixel, where filters are even and no gradient is asked for. Elsewhere spectra are mixed, as what a filter makes of the
square that its blend reaches is a product in the Fourier domain.
"""

import torch
from torch import Tensor
from torch.nn import functional

from unsmear.ops.dispatch import takes_kernels

_AT_ONCE = 2**20  # values of squares: more would not stay in a processor's cache


def filter_flow(picture: Tensor, weights: Tensor, filters: Tensor, spacing: int) -> Tensor:
    """Correlate a picture with a filter of its own around every place.

    Args:
        picture: (B, C, H, W), float32 or float64. Beyond its border it goes on as it ends.
        weights: Of the filters at places, (B, count, h, w). The first place lies half of `spacing` down and right of
            the corner; where the places end before the picture, the last ones' filters go on. They are the same for
            all channels.
        filters: (count, side, side), an odd side.
        spacing: Pixels from one place to the next, an even number.

    Returns:
        (B, C, H, W); differentiable in all three.
    """
    if _takes_kernel(picture, weights, filters):
        from unsmear.ops import filter_flow_cpu

        return filter_flow_cpu.filter_flow(picture, weights, filters, spacing)
    channels, height, width = picture.shape[1:]
    side = filters.shape[-1]
    reach, square = 2 * spacing, 2 * spacing + side - 1  # of what a filter gives, and of what it takes
    lead = spacing // 2  # from the corner to the first place; its blend begins as much before the picture
    needed = (-(-(length - lead) // spacing) for length in (height, width))
    rows, columns = map(max, weights.shape[2:], needed)
    weights = functional.pad(weights, (0, columns - weights.shape[3], 0, rows - weights.shape[2]), mode="replicate")

    before = lead + side // 2
    below, right = (n * spacing + before - length for n, length in ((rows, height), (columns, width)))
    picture = functional.pad(picture, (before, right, before, below), mode="replicate")
    squares = picture.unfold(2, square, spacing).unfold(3, square, spacing)

    padded = functional.pad(filters, (0, square - side, 0, square - side))
    spectra = torch.view_as_real(torch.fft.rfft2(padded).conj_physical())  # conjugate: it correlates
    along_rows, along_columns = (_blends(n, spacing, picture) for n in (rows, columns))
    few = max(1, _AT_ONCE // (channels * columns * square**2))
    strips = []
    for some in (slice(begin, begin + few) for begin in range(0, rows, few)):
        mixed = torch.tensordot(weights[:, :, some].movedim(1, 3), spectra, 1)  # (B, few, columns, square, half, 2)
        filtered = torch.fft.rfft2(squares[:, :, some]) * torch.view_as_complex(mixed)[:, None]
        filtered = torch.fft.irfft2(filtered, s=(square, square))[..., :reach, :reach]
        blended = filtered * (along_rows[some, None, :, None] * along_columns[:, None])
        strips.append(_add_overlaps(blended.transpose(3, 4), 4))  # (B, C, few, reach, width)
    return _add_overlaps(torch.cat(strips, 2), 2)[..., lead : lead + height, lead : lead + width]


def _takes_kernel(picture: Tensor, weights: Tensor, filters: Tensor) -> bool:
    """Whether the compiled kernel can do it: without gradients, and with filters that turned by half are the same."""
    tensors = picture, weights, filters
    if not takes_kernels(picture) or (torch.is_grad_enabled() and any(some.requires_grad for some in tensors)):
        return False
    alike = picture.dtype in (torch.float32, torch.float64) and all(some.dtype == picture.dtype for some in tensors)
    return alike and torch.equal(filters, filters.flip(1, 2))


def rising(spacing: int, like: Tensor) -> Tensor:
    """How much a place counts at every pixel from the one before on, (spacing,)."""
    return (torch.arange(spacing, device=like.device, dtype=like.dtype) + 0.5) / spacing


def _blends(places: int, spacing: int, like: Tensor) -> Tensor:
    """How much each place counts along one axis, (places, 2 * spacing); at the borders there is but one."""
    blends = torch.cat([rising(spacing, like), 1 - rising(spacing, like)]).repeat(places, 1)
    blends[0, :spacing] = 1
    blends[-1, spacing:] = 1
    return blends


def _add_overlaps(pieces: Tensor, axis: int) -> Tensor:
    """Join pieces that overlap by half: n of them along one axis, 2 * spacing values along the next."""
    first, second = pieces.chunk(2, axis + 1)
    joined = torch.cat([first, second.narrow(axis, -1, 1)], axis)
    joined.narrow(axis, 1, first.shape[axis] - 1).add_(second.narrow(axis, 0, first.shape[axis] - 1))
    return joined.flatten(axis, axis + 1)
