"""The two operators of the paper: global attention (section 2.1) and pixel-dependent filtering (section 2.2)."""

from unsmear.ops.attention import distribute_descriptors, gather_descriptors, global_attention
from unsmear.ops.pixel_adaptive import pixel_adaptive_conv2d

__all__ = ["distribute_descriptors", "gather_descriptors", "global_attention", "pixel_adaptive_conv2d"]
