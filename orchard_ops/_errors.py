"""The exceptions of orchard_ops.

    OrchardError
    ├── InvalidProblemError (ValueError)           the arguments contradict each other
    ├── UnsupportedError    (NotImplementedError)  meaningful, but not offered (yet)
    ├── DeviceError         (RuntimeError)         the device, or its library, failed
    │   ├── LibraryError    (ImportError)          no library fits this PyTorch
    │   ├── PeerError                              another rank ended or hangs
    │   └── WrongKernelError                       a kernel computes something else
    └── KernelCompileError  (RuntimeError)         a kernel's text did not compile

Messages read ``[operation] what was expected, what came; what to do``.
"""

from __future__ import annotations

import re

__all__ = [
    "DeviceError",
    "InvalidProblemError",
    "KernelCompileError",
    "LibraryError",
    "OrchardError",
    "PeerError",
    "UnsupportedError",
    "WrongKernelError",
    "renamed",
    "translate",
]


class OrchardError(Exception):
    """The base of every exception that orchard_ops raises on purpose."""


class InvalidProblemError(OrchardError, ValueError):
    """The arguments do not describe an attention problem."""


class UnsupportedError(OrchardError, NotImplementedError):
    """The problem is meaningful, but this version does not solve it."""


class DeviceError(OrchardError, RuntimeError):
    """The device or the compiled library behind it failed or is missing."""


class LibraryError(DeviceError, ImportError):
    """This package holds no compiled library that fits the PyTorch that runs."""


class PeerError(DeviceError):
    """Another rank of a distributed call ended, hangs, or never made the call."""


class WrongKernelError(DeviceError):
    """A kernel's results on this device are not those of plain operators."""


class KernelCompileError(OrchardError, RuntimeError):
    """The text of a kernel was refused by the device's compiler."""


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
    match = _TAGGED.match(str(error))
    cls = _BY_TAG.get(match.group(1)) if match else None
    if match is None or cls is None:
        return error
    text = match.group(2).split(_CPP_FRAMES)[0]
    return cls(_OPERATORS.sub(lambda _: f"[{name}]", text, count=1))


def renamed(error: OrchardError, name: str) -> OrchardError:
    """Return the error with the public function that was called in its text."""
    return type(error)(str(error).replace(f"[{_OPERATOR}]", f"[{name}]", 1))
