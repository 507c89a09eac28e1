"""Where the operators compute: in compiled kernels, or in plain PyTorch."""

import torch
from torch import Tensor


def takes_kernels(x: Tensor) -> bool:
    """Whether the compiled CPU kernels can work on a tensor: on a processor, outside a graph being recorded.

    A graph can only hold PyTorch operators.
    """
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return x.is_cpu and not tracing and not torch.compiler.is_compiling()
