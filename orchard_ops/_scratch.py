"""How much memory a backward may take to compute the scores once instead of twice."""

from __future__ import annotations

from types import TracebackType

from . import _native
from ._arguments.checks import count_of
from ._errors import InvalidProblemError

__all__ = ["backward_scratch"]

_DEFAULT = -1  # as csrc/attention/spill.h takes it


class backward_scratch:  # noqa: N801  Like torch.no_grad, a function that can be left.
    """Set how many bytes a backward may keep the gradients of the scores in.

    Holds from the call on for every thread, and inside ``with`` only until its end;
    what counts is the number when the backward runs, not when the forward did.

    With enough scratch the kernels multiply five times for each score instead of
    seven; what does not fit at once goes through it in parts.  It is taken where q, k
    and v all want gradients.  Results differ by rounding only, and each number gives
    the same bits on every run.  Memory beside the scratch stays linear in the length.

    Args:
        max_bytes: 0: never take any, compute the scores twice. A positive number: use
            it wherever at least 1,024 columns of one key head fit. None, the default:
            at most 264 MiB and an eighth of what the GPU recommends to hold, where the
            cost model predicts that it is faster.

    Raises:
        InvalidProblemError: a negative number, or not an integer.
        DeviceError: no operators are loaded.

    >>> with orchard_ops.backward_scratch(0):  # memory first
    ...     loss.backward()
    """

    def __init__(self, max_bytes: int | None) -> None:
        name, advice = "backward_scratch", "pass bytes, 0 or more, or None"
        if max_bytes is not None:
            max_bytes = count_of(name, "max_bytes", max_bytes, advice)
            if max_bytes < 0:
                raise InvalidProblemError(
                    f"[{name}] expected max_bytes to be 0 or more, got {max_bytes}; "
                    f"{advice}"
                )
        _native.require_loaded("backward_scratch")
        self._before: int = _native.ops.backward_scratch()
        _native.ops.set_backward_scratch(_DEFAULT if max_bytes is None else max_bytes)

    def __enter__(self) -> None:
        """Nothing is left to do."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Set what held before."""
        _native.ops.set_backward_scratch(self._before)
