"""What the GPU operators share: memory layouts, and launching Triton kernels."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor


def launch(kernel: Any, grid: tuple[int, ...], device: torch.device, *args: Any, **constants: Any) -> None:
    """Run a kernel in as many programs as the grid says, on a device that need not be the current one."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():  # Triton's interpreter runs on a CPU
        kernel[grid](*args, **constants)


def room(num: int) -> int:
    """Length of a block that holds `num` entries: a power of two, and enough for the matrix units."""
    return max(16, 1 << (num - 1).bit_length())


def precision(dtype: torch.dtype) -> str:
    """How products are made: float32 by three products of 19-bit numbers, which is as exact, and fits matrix units."""
    return "tf32x3" if dtype == torch.float32 else "ieee"


def channels_last(image: Tensor) -> Tensor:
    """(B, C, H, W) in any layout to dense (B, H, W, C), which is free if it is channels-last already."""
    return image.permute(0, 2, 3, 1).contiguous()


def empty_image(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """New memory for a channels-last image (B, channels, height, width)."""
    return like.new_empty(like.shape[0], height, width, channels).permute(0, 3, 1, 2)
