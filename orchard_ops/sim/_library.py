"""Any Metal text on NumPy arrays and PyTorch's tensors, without PyTorch's device."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from .._errors import InvalidProblemError
from ._arguments import (
    Argument,
    Size,
    given,
    groups_of,
    is_drawn,
    required,
    size3,
    switched_off,
    threadgroup_bytes,
)
from ._compiler import load
from ._excerpt import explained

if TYPE_CHECKING:
    from .. import _sim

__all__ = ["Footprint", "Kernel", "Library", "check", "compile", "library"]

_Path = Union[str, "os.PathLike[str]"]
# The name of a text without a file, in messages.
_UNNAMED = "kernel.metal"
_LANGUAGES = {
    "3.0": 0x30000,
    "3.1": 0x30001,
    "3.2": 0x30002,
    "4.0": 0x40000,
}  # as Metal counts them


@dataclass(frozen=True)
class Footprint:
    """What a kernel's text takes besides registers."""

    threadgroup_bytes: int
    """Threadgroup memory that all kernels of the text declare."""
    spilled: tuple[str, ...]
    """Types (LLVM's) of arrays that are indexed by what is no constant, so that no
    compiler can keep them in registers: slow memory on a GPU."""


class Library:
    """A Metal text with its macros and folders; `library` makes it."""

    def __init__(
        self,
        name: str,
        text: str,
        include: Sequence[str],
        defines: Mapping[str, str | float],
    ) -> None:
        """Keep the text; nothing is compiled yet."""
        self.name = name
        """The file, as in messages."""
        self.text = text
        """What the file holds."""
        macros = [(macro, str(value)) for macro, value in defines.items()]
        load()
        from .. import _sim

        self._source = _sim.text(text, name, macros, list(include))

    def __repr__(self) -> str:
        """Name the file."""
        return f"<sim.Library {self.name}>"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The kernels that it has, by the names that a host asks for.

        Templates count by their instances. Nothing but the preprocessor runs.

        Raises:
            KernelCompileError: an included file is missing.
        """
        with explained(self.name, self.text):
            return tuple(self._source.names())

    def kernel(
        self, name: str, constants: Mapping[int | str, bool | float] | None = None
    ) -> Kernel:
        """Compile one of its kernels, or take it from the cache.

        Args:
            name: of the kernel function, or its ``host_name``.
            constants: values of function constants, by the index or the name that
                each is declared with. One that the kernel uses must have a value.

        Raises:
            KernelCompileError: the text was refused, or has no such kernel; holds
                the compiler's message.
        """
        values = {str(key): value for key, value in (constants or {}).items()}
        with explained(self.name, self.text):
            return Kernel(self, self._source.compile(name, values))

    def check(self, *, language: str = "3.1") -> Footprint:
        """Check the text by Metal's rules; see `sim.check`."""
        if language not in _LANGUAGES:
            raise InvalidProblemError(
                f"[sim.check] expected a language of {tuple(_LANGUAGES)}, got "
                f"{language!r}"
            )
        with explained(self.name, self.text):
            taken, spilled = self._source.accept(_LANGUAGES[language])
        return Footprint(taken, tuple(spilled))


class Kernel:
    """A compiled kernel; `Library.kernel` makes it."""

    def __init__(self, library: Library, compiled: _sim.Kernel) -> None:
        """Take what the library compiled."""
        self.library = library
        """The text that it is from."""
        self._compiled = compiled

    def __repr__(self) -> str:
        """Name the kernel and its file."""
        return f"<sim.Kernel {self.name} of {self.library.name}>"

    @property
    def name(self) -> str:
        """The name that it was asked for by."""
        return self._compiled.entry

    @property
    def info(self) -> dict[str, Any]:
        """Its ``name``, ``max_threads`` of a threadgroup, and ``parameters``.

        Each parameter is a dict with ``name``, ``kind`` (buffer, threadgroup or
        attribute), ``space``, ``index``, ``is_const``, ``element_bytes``,
        ``alignment`` and, for a buffer, Metal's ``type``.
        """
        return self._compiled.info

    def dispatch(
        self,
        arguments: Mapping[int, Argument] | Sequence[Argument | None],
        grid: Size | None = None,
        group: Size | None = None,
        threadgroup_memory: int | Mapping[int, int] = 0,
        *,
        threads: Size | None = None,
        strict: bool | Collection[str] | None = None,
        suppress: Collection[str] = (),
        layout: str | None = None,
        seed: int | None = None,
        timeout: float | None = None,
    ) -> dict[str, int]:
        """Run it once; arrays are read, and written, in place.

        Args:
            arguments: slot → what ``[[buffer(slot)]]`` is bound to; a sequence gives
                slot 0 and those after it, None leaves one free. C-contiguous NumPy
                arrays and dense tensors on the CPU are buffers, and share one where
                they share memory; `sim.Buffer` gives one an offset. Numbers,
                ``bytes``, NumPy scalars and `sim.Bytes` are copied. Elements have
                their parameter's type, or are bytes (uint8); bfloat16 is PyTorch's,
                or its bits as uint16.
            grid: threadgroups in each dimension, as ``dispatchThreadgroups`` has it.
            group: threads of a threadgroup in each dimension.
            threadgroup_memory: bytes of ``[[threadgroup(0)]]``, or slot → bytes.
            threads: in place of ``grid``, all threads in each dimension, as
                ``dispatchThreads`` has it: threadgroups at its edges are smaller.
            strict: check every access; by default as `sim.strict` says. Names of
                checks, of ``"races"``, ``"bounds"``, ``"alignment"``,
                ``"barrier_flags"`` (barriers fence what their flags say) and
                ``"uninitialized"``, leave out the others.
            suppress: places where a check is off, as in ``"races@k.metal:42"``.
            layout: where the lanes of a simdgroup hold the elements of matrices and
                cooperative tensors: ``"apple"`` as Apple's newest GPUs have been
                measured to, which is the default, or ``"drawn"`` by the seed. A kernel
                that counts on the one is wrong with the other.
            seed: of the order in which threads run; by default `sim.seed`'s.
            timeout: seconds after which it is ended; by default there is no limit.

        Returns:
            What was counted, name → count.

        Raises:
            InvalidProblemError: an argument is none that its parameter takes, or
                sizes are missing or wrong.
            FaultError: the kernel was caught at a mistake, touched a parameter that
                nothing is bound to, or took too long.
            DeviceError: a limit of Metal is exceeded.
        """
        of_group = size3(self.name, "group", required(self.name, "group", group))
        if (grid is None) == (threads is None):
            raise InvalidProblemError(
                f"[{self.name}] expected one of grid (threadgroups) and threads, got "
                f"{'neither' if grid is None else 'both'}"
            )
        in_all = (0, 0, 0)  # as the threadgroups make
        if grid is not None:
            groups = size3(self.name, "grid", grid)
        else:
            assert threads is not None
            in_all = size3(self.name, "threads", threads)
            groups = groups_of(in_all, of_group)
        with explained(self.library.name, self.library.text):
            return self._compiled.dispatch(
                given(self.name, arguments),
                groups,
                of_group,
                threadgroup_bytes(self.name, threadgroup_memory),
                in_all,
                strict if strict is None or isinstance(strict, bool) else True,
                switched_off(self.name, strict, suppress),
                is_drawn(self.name, layout),
                seed,
                timeout,
            )


def library(
    path: _Path | None = None,
    *,
    text: str | None = None,
    include: Sequence[_Path] = (),
    defines: Mapping[str, str | float] | None = None,
) -> Library:
    """Take a Metal text, of which kernels are compiled one by one.

    Args:
        path: the file that holds it.
        text: in place of a file, the text itself.
        include: folders in which included files are looked for, after the file's own.
        defines: preprocessor macros, name → value.

    Raises:
        InvalidProblemError: no such file or folder, or not one of path and text.
        DeviceError: no compiler or no simulator was found.
    """
    if (path is None) == (text is None):
        raise InvalidProblemError(
            "[sim.library] expected one of path and text, got "
            f"{'neither' if path is None else 'both'}"
        )
    folders = [os.fspath(folder) for folder in include]
    for folder in folders:
        if not Path(folder).is_dir():
            raise InvalidProblemError(
                f"[sim.library] expected folders to include from, got {folder!r}"
            )
    name = _UNNAMED
    if path is not None:
        name = os.fspath(path)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidProblemError(
                f"[sim.library] expected a file of Metal text, got {name!r}: {error}"
            ) from error
        folders.insert(0, str(Path(path).parent))
    assert text is not None
    return Library(name, text, folders, defines or {})


def compile(  # noqa: A001 - the design's name, used as sim.compile
    source: str, entry: str, defines: Mapping[str, str | float] | None = None
) -> Kernel:
    """Compile a kernel of a text: ``library(text=…, defines=…).kernel(entry)``.

    Args:
        source: text in the Metal shading language.
        entry: name of the kernel function, or its ``host_name``.
        defines: preprocessor macros, name → value.

    Raises:
        KernelCompileError: the text was refused; holds the compiler's message.
        DeviceError: no compiler or no simulator was found.
    """
    return library(text=source, defines=defines).kernel(entry)


def check(
    source: str,
    defines: Mapping[str, str | float] | None = None,
    *,
    language: str = "3.1",
) -> Footprint:
    """Check a kernel by Metal's rules, most of which running it here does not need.

    Names, address spaces, attributes and signatures follow the specification; types
    are those of Metal's library: the overloads that it has, vectors without places for
    their components, no silent conversion to bfloat, simdgroup functions on the types
    that they take.  What passes may still be refused by Apple's compiler.

    Args:
        source: text in the Metal shading language.
        defines: preprocessor macros, name → value.
        language: Metal's version: ``"3.0"`` (macOS 13, without bfloat), ``"3.1"``,
            ``"3.2"`` (macOS 15) or ``"4.0"``.

    Returns:
        What the text takes besides registers.

    Raises:
        KernelCompileError: a rule is broken; holds lines and reasons.
        InvalidProblemError: another language version.
        DeviceError: no compiler or no simulator was found.
    """
    return library(text=source, defines=defines).check(language=language)
