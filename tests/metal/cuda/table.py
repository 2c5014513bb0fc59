"""The tables of small problems (test_attention.py, test_spill.py) on the GPU.

Not named test_*: a plain run of the suite has no NVIDIA GPU.  ``python
tests/metal/cuda`` calls pytest on it.
"""

from __future__ import annotations

import pytest
import torch
from cuda_device import open_device
from test_attention import *  # noqa: F403
from test_determinism import *  # noqa: F403
from test_spill import *  # noqa: F403

# It counts on metalsim's allocator; `memory` measures this GPU's.
del test_memory_is_linear_up_to_the_scratch  # type: ignore[name-defined]  # noqa: F821


@pytest.fixture(scope="session", autouse=True)
def _metalsim() -> None:
    """Leave the simulator out: conftest.py would enable it."""


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Take the place of the simulator."""
    return open_device()
