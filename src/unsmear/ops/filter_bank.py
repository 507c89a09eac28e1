"""A bank of fixed filters, mixed anew at every pixel."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unsmear.ops.dispatch import takes_kernels


class FilterBank:
    """Filters, and a picture to use them on.

    What they make of the picture is kept, to be mixed several times; but on processors, where no gradient is asked for,
    a compiled kernel makes it on the way every time, which takes less time than to keep it.

    Args:
        luma: (B, 1, H, W), sides multiples of `fold`. Beyond its border it goes on as it ends.
        filters: (count, side, side), an odd side. The kernel wants filters that are, each of them, themselves or their
            negative when they are flipped, along both axes alike, and when they are transposed.
        fold: Side of the pixel blocks that are folded into channels.
        dtype: Type of what is mixed.
    """

    def __init__(self, luma: Tensor, filters: Tensor, fold: int, dtype: torch.dtype) -> None:
        self._luma, self._filters, self._fold = luma, filters.to(luma.dtype), fold
        self._prepared = self._kept = None
        if self._takes_kernel(dtype):
            from unsmear.ops import filter_bank_cpu

            self._prepared = filter_bank_cpu.prepare(self._planes(), self._filters, fold)
        else:
            self._kept = self.responses().to(dtype)

    def _takes_kernel(self, dtype: torch.dtype) -> bool:
        there = takes_kernels(self._luma) and not torch.is_grad_enabled()
        precise = self._luma.dtype == dtype and dtype in (torch.float32, torch.float64)
        return there and precise and is_symmetric(self._filters)

    def responses(self) -> Tensor:
        """What every filter makes of the picture, (B, fold * fold, count, h, w), with h = H / fold and w = W / fold."""
        fold, margin = self._fold, self._filters.shape[-1] // 2
        more = -2 * margin % fold
        # The filters are folded instead of what they give: for each pixel of a block they begin elsewhere.
        moved = [
            functional.pad(self._filters[:, None], (right, fold - 1 - right + more, down, fold - 1 - down + more))
            for down in range(fold)
            for right in range(fold)
        ]
        blocks = self._planes().contiguous(memory_format=torch.channels_last)
        responses = functional.conv2d(blocks, functional.pixel_unshuffle(torch.cat(moved), fold))
        return responses.unflatten(1, (fold**2, -1))

    def _planes(self) -> Tensor:
        """Every `fold`-th row and column of the picture with a margin of half of the filters' side, in whole blocks."""
        margin = self._filters.shape[-1] // 2
        more = margin + -2 * margin % self._fold
        around = functional.pad(self._luma, (margin, more, margin, more), mode="replicate")
        return functional.pixel_unshuffle(around, self._fold)

    def mix(self, weights: Tensor, onto: Tensor) -> Tensor:
        """Apply a filter of its own at every pixel, a sum of those of the bank, and add what it gives to every color.

        Args:
            weights: (B, count, h, w).
            onto: What to add it to, pixel blocks folded, (B, colors * fold * fold, h, w).

        Returns:
            As `onto`.
        """
        if self._prepared is not None:
            from unsmear.ops import filter_bank_cpu

            return filter_bank_cpu.mix(self._prepared, weights, onto)
        assert self._kept is not None
        mix = _Mix.apply if self._kept.requires_grad else _mix
        return add_to_colors(onto, mix(weights, self._kept))  # type: ignore[arg-type]


def _mix(weights: Tensor, kept: Tensor) -> Tensor:
    return torch.einsum("bkhw,bskhw->bshw", weights, kept)


class _Mix(torch.autograd.Function):
    """`_mix`, whose own gradient makes the products of each pixel apart, which takes five times as long."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(weights, kept)
        return _mix(weights, kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights, kept = ctx.saved_tensors
        grad = grad.to(kept.dtype)
        grad_weights = grad_kept = None
        if ctx.needs_input_grad[0]:
            grad_weights = torch.einsum("bshw,bskhw->bkhw", grad, kept)
        if ctx.needs_input_grad[1]:  # in memory as `kept`, or it would be copied later
            grad_kept = torch.mul(grad[:, :, None], weights[:, None], out=torch.empty_like(kept))
        return grad_weights, grad_kept


def add_to_colors(x: Tensor, luma: Tensor) -> Tensor:
    """Add (B, fold * fold, h, w) to each color of (B, colors * fold * fold, h, w)."""
    return (x.unflatten(1, (-1, luma.shape[1])) + luma[:, None]).flatten(1, 2)


def is_symmetric(filters: Tensor) -> bool:
    """Whether each of (count, side, side) that is flipped or transposed is itself or its negative, flips alike.

    Filters of zeros are both, and count as neither.
    """
    flip, transposition = signs(filters)
    pairs = (filters.flip(1), flip), (filters.flip(2), flip), (filters.mT, transposition)
    return all(bool(sign.all()) and torch.equal(turned, sign[:, None, None] * filters) for turned, sign in pairs)


def signs(filters: Tensor) -> tuple[Tensor, Tensor]:
    """What (count, side, side) that are symmetric are multiplied by when they are flipped, and transposed; (count,)."""
    flip, transposition = ((turned * filters).sum((1, 2)).sign() for turned in (filters.flip(2), filters.mT))
    return flip, transposition
