"""Scores of deblurring under named protocols: what is measured, of what, and the report of it.

The names below are loaded on first use: they need scikit-image and PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unsmear.evaluation.metrics import PROTOCOLS
    from unsmear.evaluation.run import evaluate
    from unsmear.evaluation.summary import Evaluation

_HOME = {
    "PROTOCOLS": "unsmear.evaluation.metrics",
    "Evaluation": "unsmear.evaluation.summary",
    "evaluate": "unsmear.evaluation.run",
}

__all__ = ["PROTOCOLS", "Evaluation", "evaluate"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'unsmear.evaluation' has no attribute {name!r}")
