"""Tell scikit-build-core what a source distribution requires: any PyTorch we know.

Only a wheel is built for one PyTorch: see wheel_metadata.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import find_torch


def dynamic_metadata(field: str, _settings: Mapping[str, Any]) -> list[str]:
    """Return the requirements of a source distribution (a hook)."""
    assert field == "dependencies", field
    return [f"torch>={'.'.join(map(str, find_torch.OLDEST))}"]
