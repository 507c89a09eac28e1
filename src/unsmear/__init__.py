"""unsmear takes the motion blur out of photographs.

The names below are the promised interface; everything else may change between versions. They are
loaded on first use, so that importing `unsmear` costs nothing and `unsmear --help` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unsmear import ops
    from unsmear.models import create_model, list_models, load_model
    from unsmear.restore import Deblurrer, deblur

_HOME = {
    "Deblurrer": "unsmear.restore",
    "create_model": "unsmear.models",
    "deblur": "unsmear.restore",
    "list_models": "unsmear.models",
    "load_model": "unsmear.models",
}

__all__ = ["Deblurrer", "create_model", "deblur", "list_models", "load_model", "ops"]


def __getattr__(name: str) -> Any:
    if name == "ops":
        return import_module("unsmear.ops")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'unsmear' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
