"""Weights cut into pieces, one on each process (FSDP, version 2): what training needs beyond what Accelerate does.

A weight that is cut is a DTensor. Everything elementwise works on the pieces; what needs a matrix in one piece takes
`whole` of it, and what gives one cuts it with `cut_like`.
"""

from typing import TYPE_CHECKING, TypeGuard

import torch
from accelerate import Accelerator
from torch import Tensor

from unsmear.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def set_up_sharding(accelerator: Accelerator) -> bool:
    """Make Accelerate's sharding, if it was launched with it, compute what training without it computes.

    Returns:
        Whether `accelerator.prepare` will cut weights into pieces.

    Raises:
        UsageError: If it was launched with a kind of sharding that is not supported.
    """
    kind = accelerator.distributed_type.value
    if kind in ("DEEPSPEED", "MEGATRON_LM"):
        raise UsageError(f"{kind} is not supported: launch without it, or with --use_fsdp --fsdp_version 2")
    if kind != "FSDP":
        return False
    if not accelerator.is_fsdp2:
        raise UsageError("FSDP version 1 is not supported: launch with --fsdp_version 2")
    plugin = accelerator.state.fsdp_plugin
    assert plugin is not None
    if plugin.min_num_params is not None:
        raise UsageError("SIZE_BASED_WRAP cuts inside blocks that must stay whole: leave --fsdp_auto_wrap_policy out")
    plugin.mixed_precision_policy = None  # autocast lowers precision where networks bear it; this would everywhere
    plugin.cpu_ram_efficient_loading = False  # every process makes the same network, from the seed or the file
    return True


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece, gathered from all processes if it is cut. All of them must take part."""
    return tensor.full_tensor() if is_cut(tensor) else tensor


def cut_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A tensor that every process holds in one piece, cut as `other` of the same shape is."""
    if not is_cut(other):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = other.device_mesh
    everywhere = DTensor.from_local(tensor.to(other.device), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=other.placements)


def is_cut(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether a process holds only a piece of a tensor."""
    if not torch.distributed.is_available():  # as in some builds of PyTorch
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
