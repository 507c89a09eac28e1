"""Renaming tensors, none forgotten and none left over."""

from collections.abc import Mapping

from torch import Tensor

from unsmear.errors import ModelError

_SHOWN = 3


def rename(tensors: Mapping[str, Tensor], names: Mapping[str, str], file: str) -> dict[str, Tensor]:
    """Give the tensors of a file our names.

    Args:
        tensors: Tensors by the names that they were released with.
        names: Our name of each of them, by theirs.
        file: Where they are from, for messages.

    Raises:
        ModelError: If some are missing, or there are others.
    """
    missing = [name for name in names if name not in tensors]
    unknown = [name for name in tensors if name not in names]
    if missing or unknown:
        faults = [f"{name} is missing" for name in missing] + [f"{name} is not known" for name in unknown]
        raise ModelError(f"{file}: does not hold what it should: {', '.join(faults[:_SHOWN])}")
    return {ours: tensors[theirs] for theirs, ours in names.items()}
