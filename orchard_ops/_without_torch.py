"""What the package says of its functions where PyTorch is not to be imported."""

from __future__ import annotations

from ._errors import LibraryError

__all__ = ["attribute"]


def attribute(name: str) -> object:
    """Raise what an attribute of the package calls for that needs PyTorch.

    Raises:
        LibraryError: it would be there with PyTorch.
        AttributeError: it would not.
    """
    from . import __all__ as public

    if name not in public:
        raise AttributeError(f"module {__package__!r} has no attribute {name!r}")
    raise LibraryError(
        f"[orchard_ops.{name}] expected PyTorch, found none that may be imported; pip "
        "install torch, and do not set ORCHARD_TORCH=never; without it there is "
        "orchard_ops.sim alone"
    )
