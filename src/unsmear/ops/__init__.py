"""The operators of the paper: global attention (section 2.1), pixel-dependent filtering (2.2), and convolution."""

from unsmear.ops.attention import distribute_descriptors, gate_descriptors, gather_descriptors
from unsmear.ops.convolution import convolve, convolve_transposed
from unsmear.ops.pixel_adaptive import generate_kernels, pixel_adaptive_conv2d, pixel_dependent_filter

__all__ = [
    "convolve",
    "convolve_transposed",
    "distribute_descriptors",
    "gate_descriptors",
    "gather_descriptors",
    "generate_kernels",
    "pixel_adaptive_conv2d",
    "pixel_dependent_filter",
]
