"""The exceptions of orchard_ops.

    OrchardError
    ├── InvalidProblemError (ValueError)           the arguments contradict each other
    ├── UnsupportedError    (NotImplementedError)  meaningful, but not offered (yet)
    ├── DeviceError         (RuntimeError)         the device, or its library, failed
    │   ├── FaultError                             the simulator caught a kernel
    │   ├── LibraryError    (ImportError)          no library fits this PyTorch
    │   ├── PeerError                              another rank ended or hangs
    │   └── WrongKernelError                       a kernel computes something else
    └── KernelCompileError  (RuntimeError)         a kernel's text did not compile

Messages read ``[operation] what was expected, what came; what to do``.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Optional

__all__ = [
    "DeviceError",
    "Diagnostic",
    "FaultError",
    "InvalidProblemError",
    "KernelCompileError",
    "LibraryError",
    "OrchardError",
    "PeerError",
    "UnsupportedError",
    "WrongKernelError",
    "renamed",
    "translate",
    "typed",
]


class OrchardError(Exception):
    """The base of every exception that orchard_ops raises on purpose."""


class InvalidProblemError(OrchardError, ValueError):
    """The arguments do not describe an attention problem."""


class UnsupportedError(OrchardError, NotImplementedError):
    """The problem is meaningful, but this version does not solve it."""


class DeviceError(OrchardError, RuntimeError):
    """The device or the compiled library behind it failed or is missing."""


class FaultError(DeviceError):
    """The simulator ended a kernel that went wrong, or took too long.

    What it knows of the place is in attributes; what it does not is None.
    """

    kernel: str
    """The kernel function."""
    reason: str
    """What went wrong, without the place."""
    file: str | None = None
    """The file of the line, as the compiler was told its name."""
    line: int | None = None
    """The line, counted from 1."""
    threadgroup: tuple[int, int, int] | None = None
    """Where the threadgroup lies in the grid."""
    simdgroup: int | None = None
    """Its number in the threadgroup."""
    lane: int | None = None
    """The thread's number in its simdgroup."""
    source: str | None = None
    """The lines of Metal around the place, the line itself marked."""

    def __init__(self, message: str) -> None:
        """Read the place out of what the simulator says."""
        super().__init__(message)
        found = _PLACE.search(message)
        self.kernel = found["kernel"] if found else ""
        self.reason = found["reason"] if found else message
        if found is None:
            return
        self.file = found["file"]
        line = found["line"] or found["line_alone"]
        self.line = int(line) if line else None
        if found["threadgroup"]:
            x, y, z = found["threadgroup"].split(", ")
            self.threadgroup = (int(x), int(y), int(z))
            self.simdgroup, self.lane = int(found["simdgroup"]), int(found["lane"])


class LibraryError(DeviceError, ImportError):
    """This package holds no compiled library that fits the PyTorch that runs."""


class PeerError(DeviceError):
    """Another rank of a distributed call ended, hangs, or never made the call."""


class WrongKernelError(DeviceError):
    """A kernel's results on this device are not those of plain operators."""


class Diagnostic(NamedTuple):
    """One complaint of a compiler."""

    file: str
    line: int
    column: Optional[int]  # noqa: UP045 - read at run time
    message: str


class KernelCompileError(OrchardError, RuntimeError):
    """The text of a kernel was refused by the device's compiler."""

    source: str | None = None
    """The lines of Metal around the first complaint, its line marked."""

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """What the compiler complains of, as far as it says where."""
        return tuple(
            Diagnostic(
                each["file"],
                int(each["line"]),
                int(each["column"]) if each["column"] else None,
                each["message"],
            )
            for each in _COMPLAINT.finditer(str(self))
        )

    @property
    def file(self) -> str | None:
        """The file of the first complaint."""
        return self.diagnostics[0].file if self.diagnostics else None

    @property
    def line(self) -> int | None:
        """The line of the first complaint, counted from 1."""
        return self.diagnostics[0].line if self.diagnostics else None


_BY_TAG = {
    cls.__name__: cls
    for cls in (
        InvalidProblemError,
        UnsupportedError,
        DeviceError,
        WrongKernelError,
        KernelCompileError,
    )
}
# What csrc/device/sim/execute/ says of a launch that failed: where, and why.
_PLACE = re.compile(
    r"kernel (?P<kernel>[^\n]+?)"
    r"(?:, (?:line (?P<line_alone>\d+)|(?P<file>[^\n]+?):(?P<line>\d+)))?"
    r"(?:, threadgroup \((?P<threadgroup>\d+, \d+, \d+)\), "
    r"simdgroup (?P<simdgroup>\d+), lane (?P<lane>\d+))?"
    r": (?P<reason>.*)",
    re.DOTALL,
)
# Of those that name no thread, the ones that are no mistake of the caller.
_FAULTS = ("uninitialized memory", "out of bounds", "did not end")
_COMPLAINT = re.compile(
    r"^(?P<file>[^\n:]+):(?P<line>\d+):(?:(?P<column>\d+):)? "
    r"(?:fatal )?error: (?P<message>.*)$",
    re.MULTILINE,
)
_TAGGED = re.compile(r"\[(\w+)\] (.*)", re.DOTALL)
# What PyTorch says where a C++ operator with a backward meets torch.func.grad or jvp.
_NO_TRANSFORM = ("functorch transforms", "jvp is not implemented")
# PyTorch appends its C++ frames when TORCH_SHOW_CPP_STACKTRACES is set.
_CPP_FRAMES = "\nException raised from "
_OPERATOR = "flash_attention"
_OPERATORS = re.compile(rf"\[{_OPERATOR}(_backward)?\]")


def translate(error: RuntimeError, name: str = _OPERATOR) -> Exception:
    """Return the typed exception for an error raised by ``torch.ops.orchard_ops``.

    The operators prefix their messages with the class name in brackets,
    because only PyTorch's own exception types cross from C++ into Python.
    What PyTorch says of transforms is put in clearer words; any other error is
    returned unchanged.

    Args:
        error: what PyTorch raised.
        name: the public function that was called, put where the message names
            the operator.
    """
    if any(words in str(error) for words in _NO_TRANSFORM):
        return UnsupportedError(
            f"[{name}] expected no torch.func.grad, vjp or jvp, nor forward-mode "
            "differentiation, around this call, got one; use torch.autograd, or "
            "torch.nn.functional.scaled_dot_product_attention for this call"
        )
    found = typed(str(error).split(_CPP_FRAMES)[0])
    if found is None:
        return error
    text = _OPERATORS.sub(lambda _: f"[{name}]", str(found), count=1)
    return type(found)(text)


def typed(text: str) -> OrchardError | None:
    """Return the exception for a text of the C++ side, which begins with its class."""
    match = _TAGGED.match(text)
    cls = _BY_TAG.get(match.group(1)) if match else None
    if match is None or cls is None:
        return None
    text = match.group(2)
    place = _PLACE.search(text) if cls is DeviceError else None
    if place is None:
        return cls(text)
    is_fault = place["lane"] or place["reason"].startswith(_FAULTS)
    return FaultError(text) if is_fault else cls(text)


def renamed(error: OrchardError, name: str) -> OrchardError:
    """Return the error with the public function that was called in its text."""
    return type(error)(str(error).replace(f"[{_OPERATOR}]", f"[{name}]", 1))
