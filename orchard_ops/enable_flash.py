"""The names by which the first orchard_ops was switched on.

New code needs none of them: ``import orchard_ops`` registers the operators.
"""

from __future__ import annotations

import logging

from . import _native
from ._functions.dense import flash_attn_fwd

__all__ = ["flash_attn", "main"]

flash_attn = flash_attn_fwd


def main(verbose: bool = False) -> None:
    """Do nothing but report: the operators load with the package.

    Args:
        verbose: log, at level INFO, the libraries that are loaded.
    """
    if verbose:
        libraries = _native.loaded_libraries() or "none"
        logging.getLogger(__name__).info("orchard_ops libraries: %s", libraries)
