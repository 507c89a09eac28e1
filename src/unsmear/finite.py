"""JSON knows no infinities."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """A value for JSON, its infinities and what is no number as text, which is all that JSON can hold of them."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
