"""sim.library: texts from files, their kernels by name, arguments by slot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from needs import skip_without_metalsim

import orchard_ops
from orchard_ops import sim
from orchard_ops.sim._excerpt import excerpt

skip_without_metalsim("simulator")

SCALE = """
#include <metal_stdlib>
#include "factor.h"
using namespace metal;
kernel void scale(device const float* x [[buffer(0)]],
                  device float* y [[buffer(3)]],
                  constant float& by [[buffer(4)]],
                  uint i [[thread_position_in_grid]]) {
  y[i] = FACTOR * by * x[i];
}
template <typename T>
kernel void copy(device const T* x [[buffer(0)]], device T* y [[buffer(1)]],
                 uint i [[thread_position_in_grid]]) {
  y[i] = x[i];
}
template [[host_name("copy_float")]] kernel decltype(copy<float>) copy<float>;
template [[host_name("copy_half")]] kernel decltype(copy<half>) copy<half>;
kernel void reverse(device float* x [[buffer(0)]],
                    threadgroup float* shared [[threadgroup(0)]],
                    uint i [[thread_index_in_threadgroup]],
                    uint n [[threads_per_threadgroup]]) {
  shared[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x[i] = shared[n - 1 - i];
}
"""
FAULT = """
#include <metal_stdlib>
using namespace metal;
kernel void past_the_end(device float* y [[buffer(0)]],
                         uint i [[thread_position_in_grid]]) {
  uint at = i;
  if (i == 70) at += 1000;
  y[at] = 1;
}
kernel void racing(device float* y [[buffer(0)]],
                   uint i [[thread_index_in_threadgroup]]) {
  threadgroup float shared[1];
  shared[0] = i;
  y[i] = shared[0];
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a text, and another one with what it includes."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "factor.h").write_text("#pragma once\n#define FACTOR 3\n")
    (tmp_path / "scale.metal").write_text(SCALE)
    return tmp_path


def scale(folder: Path, **options: object) -> sim.Library:
    """Take the text of that folder."""
    return sim.library(folder / "scale.metal", include=[folder / "include"], **options)


def run(kernel: sim.Kernel, by: Any = 2.0) -> float:
    """Scale a one."""
    y = np.zeros(1, np.float32)
    kernel.dispatch({0: np.ones(1, np.float32), 3: y, 4: by}, grid=1, group=1)
    return float(y[0])


def test_names(folder: Path) -> None:
    """A library names its kernels as a host asks for them, in the text's order."""
    assert scale(folder).names == ("scale", "copy_float", "copy_half", "reverse")


def test_names_need_no_sound_text() -> None:
    """What is wrong inside a function does not hide the names."""
    text = "kernel void f(device float* y [[buffer(0)]]) { y[0] = nothing; }"
    assert sim.library(text=text).names == ("f",)


def test_an_included_file_comes_from_the_folders_in_order(folder: Path) -> None:
    """The text's own folder first, then those given; a file of ours last."""
    assert run(scale(folder).kernel("scale")) == 6
    (folder / "factor.h").write_text("#define FACTOR 5\n")
    assert run(scale(folder).kernel("scale")) == 10


def test_a_users_file_comes_before_ours(tmp_path: Path) -> None:
    """A header that has the name of one of this library's is the user's."""
    (tmp_path / "params.h").write_text("#define VALUE 7\n")
    (tmp_path / "k.metal").write_text(
        '#include "params.h"\n'
        "kernel void f(device float* y [[buffer(0)]]) { y[0] = VALUE; }"
    )
    y = np.zeros(1, np.float32)
    sim.library(tmp_path / "k.metal").kernel("f").dispatch([y], 1, 1)
    assert y[0] == 7


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that nobody has is an error with its line, also for the names."""
    path = tmp_path / "k.metal"
    path.write_text('// First.\n#include "nowhere.h"\n')
    library = sim.library(path)
    for call in (lambda: library.names, lambda: library.kernel("f"), library.check):
        with pytest.raises(orchard_ops.KernelCompileError) as caught:
            call()
        assert (caught.value.file, caught.value.line) == (str(path), 2)
        assert "nowhere.h" in caught.value.diagnostics[0].message
        assert '> 2 | #include "nowhere.h"' in caught.value.source


def test_defines_are_macros(folder: Path) -> None:
    """Their order is kept, and numbers become their text."""
    (folder / "include" / "factor.h").write_text("#define FACTOR (TWICE)\n")
    library = scale(folder, defines={"ONCE": 2, "TWICE": "(2 * ONCE)"})
    assert run(library.kernel("scale"), 1.0) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "one of path and text, got neither"),
        ({"path": "k.metal", "text": ""}, "one of path and text, got both"),
        ({"path": "nowhere/k.metal"}, "a file of Metal text, got 'nowhere/k.metal'"),
        (
            {"text": "", "include": ["nowhere"]},
            "folders to include from, got 'nowhere'",
        ),
    ],
)
def test_what_is_no_library(options: dict[str, object], words: str) -> None:
    """Each is refused, with what was expected and what came."""
    with pytest.raises(orchard_ops.InvalidProblemError, match=words):
        sim.library(**options)


def test_a_kernel_that_is_not_there(folder: Path) -> None:
    """The error lists those that are."""
    with pytest.raises(orchard_ops.KernelCompileError, match="it has: scale"):
        scale(folder).kernel("scael")


def test_threads_are_groups(folder: Path) -> None:
    """A number of threads stands for that many threadgroups, in three dimensions."""
    x, y = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    kernel = scale(folder).kernel("scale")
    counted = kernel.dispatch({0: x, 3: y, 4: 1.0}, threads=64, group=16)
    assert (counted["threadgroups"], counted["threads"]) == (4, 64)
    np.testing.assert_array_equal(3 * x, y)
    counted = kernel.dispatch({0: x, 3: y, 4: 1.0}, threads=(4, 6, 2), group=(4, 2))
    assert (counted["threadgroups"], counted["threads"]) == (6, 48)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"grid": 1}, "expected group, the threads of a threadgroup, got none"),
        ({"group": 1}, "one of grid .threadgroups. and threads, got neither"),
        ({"grid": 1, "threads": 1, "group": 1}, "and threads, got both"),
        ({"grid": (1, 1, 1, 1), "group": 1}, r"grid of one to three .*1, 1, 1, 1"),
        ({"grid": -1, "group": 1}, "grid of one to three numbers from 0, got -1"),
        ({"grid": 1, "group": ()}, r"group of one to three .*got \(\)"),
    ],
)
def test_sizes_that_are_none(
    folder: Path, sizes: dict[str, object], words: str
) -> None:
    """Missing, doubled and impossible sizes are refused, naming the kernel."""
    with pytest.raises(orchard_ops.InvalidProblemError, match=words) as caught:
        scale(folder).kernel("scale").dispatch({}, **sizes)
    assert str(caught.value).startswith("[scale]")


@pytest.mark.parametrize("memory", [16 * 4, {0: 16 * 4}])
def test_threadgroup_memory(folder: Path, memory: object) -> None:
    """Its bytes are given as a number or by slot."""
    x = np.arange(16, dtype=np.float32)
    kernel = scale(folder).kernel("reverse")
    kernel.dispatch({0: x}, grid=1, group=16, threadgroup_memory=memory)
    np.testing.assert_array_equal(np.arange(16)[::-1], x)


@pytest.mark.parametrize("slot", [-1, 31, "x", 1.0])
def test_slots_that_are_none(folder: Path, slot: object) -> None:
    """Slots are those of [[buffer(n)]]."""
    with pytest.raises(orchard_ops.InvalidProblemError, match="slots from 0 to 30"):
        scale(folder).kernel("scale").dispatch({slot: 1.0}, 1, 1)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "value",
    [np.float32(2), np.array([2], np.float32), torch.tensor([2.0]), b"\0\0\0@", 2.0],
    ids=lambda value: type(value).__name__,
)
def test_bytes_are_copied(folder: Path, value: object) -> None:
    """What setBytes would copy: a scalar, an array, a tensor, bytes, a number."""
    assert run(scale(folder).kernel("scale"), sim.Bytes(value)) == 6


def test_bytes_keep_what_they_were_made_of(folder: Path) -> None:
    """An array that changes later does not change them, and they are no output."""
    value = np.array([2], np.float32)
    copied = sim.Bytes(value)
    value[:] = 9
    assert run(scale(folder).kernel("scale"), copied) == 6
    with pytest.raises(orchard_ops.InvalidProblemError, match="writable array"):
        scale(folder).kernel("reverse").dispatch({0: copied}, grid=1, group=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tensors_are_buffers(folder: Path, dtype: torch.dtype) -> None:
    """Tensors on the CPU are read and written in place, like arrays."""
    name = {torch.float32: "copy_float", torch.float16: "copy_half"}[dtype]
    x = torch.arange(8, dtype=dtype, requires_grad=True)
    y = torch.zeros(8, dtype=dtype)
    scale(folder).kernel(name).dispatch([x, y], grid=1, group=8)
    assert torch.equal(x.detach(), y)


def test_bfloat_tensors_are_their_bits() -> None:
    """NumPy has no bfloat16; PyTorch's is bound as it is, also a part of it."""
    text = """
    kernel void add(device const bfloat* x [[buffer(0)]],
                    device bfloat* y [[buffer(1)]],
                    uint i [[thread_position_in_grid]]) {
      y[i] = bfloat(float(y[i]) + float(x[i]));
    }
    """
    x = torch.arange(8, dtype=torch.bfloat16)
    y = torch.ones(12, dtype=torch.bfloat16)
    sim.library(text=text).kernel("add").dispatch([x, y[4:]], grid=1, group=8)
    assert y.tolist() == [1] * 4 + list(range(1, 9))


def test_tensors_elsewhere_are_refused(folder: Path) -> None:
    """The error names the argument, where the tensor is and what to do."""
    kernel = scale(folder).kernel("copy_float")
    for wrong in (torch.zeros(4, device="meta"), torch.zeros(4).to_sparse()):
        with pytest.raises(orchard_ops.InvalidProblemError, match=r"tensor.cpu\(\)"):
            kernel.dispatch([wrong, np.zeros(4, np.float32)], grid=1, group=4)


@pytest.mark.parametrize("strict", [False, True])
def test_an_offset_is_in_bytes(folder: Path, strict: bool) -> None:
    """A slot may begin inside an array; what lies before is not touched."""
    x, y = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    kernel = scale(folder).kernel("copy_float")
    kernel.dispatch([sim.Buffer(x, 16), sim.Buffer(y, 8)], 1, 4, strict=strict)
    assert y.tolist() == [0, 0, 4, 5, 6, 7, 0, 0]


def test_what_lies_before_an_offset_is_in_the_buffer() -> None:
    """As on a GPU a pointer may go back there; strict mode alone says no."""
    text = """
    kernel void back(device float* y [[buffer(0)]]) { y[-1] = 5; }
    """
    kernel = sim.library(text=text).kernel("back")
    y = np.zeros(4, np.float32)
    kernel.dispatch([sim.Buffer(y, 8)], grid=1, group=1)
    assert y.tolist() == [0, 5, 0, 0]
    with pytest.raises(orchard_ops.FaultError, match="at byte -4 of 'y'"):
        kernel.dispatch([sim.Buffer(y, 8)], grid=1, group=1, strict=True)


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (-4, "an offset in bytes, from 0, got -4"),
        (1.0, "an offset in bytes, from 0, got 1.0"),
        (40, "at most the 32 bytes of its array, got 40"),
    ],
)
def test_offsets_that_are_none(folder: Path, offset: object, words: str) -> None:
    """An offset is a number of bytes inside its array."""
    x = np.zeros(8, np.float32)
    with pytest.raises(orchard_ops.InvalidProblemError, match=words):
        scale(folder).kernel("copy_float").dispatch([sim.Buffer(x, offset), x], 1, 1)


def test_a_misaligned_offset_is_refused(folder: Path) -> None:
    """Offsets obey the alignment of the parameter's type."""
    x, y = np.zeros(8, np.float32), np.zeros(4, np.float32)
    with pytest.raises(orchard_ops.DeviceError, match="not a multiple of 4"):
        scale(folder).kernel("copy_float").dispatch([sim.Buffer(x, 2), y], 1, 1)


def test_a_fault_knows_its_place(tmp_path: Path) -> None:
    """Kernel, file, line, threadgroup and lane are attributes, with the source."""
    path = tmp_path / "fault.metal"
    path.write_text(FAULT)
    kernel = sim.library(path).kernel("past_the_end")
    with pytest.raises(orchard_ops.FaultError) as caught:
        kernel.dispatch([np.zeros(128, np.float32)], grid=2, group=64, strict=True)
    fault = caught.value
    assert isinstance(fault, orchard_ops.DeviceError)
    assert (fault.kernel, fault.file, fault.line) == ("past_the_end", str(path), 8)
    assert (fault.threadgroup, fault.simdgroup, fault.lane) == ((1, 0, 0), 0, 6)
    assert fault.reason.startswith("out of bounds: write of 4 bytes")
    assert ">  8 |   y[at] = 1;" in fault.source


def test_lines_that_are_not_there_have_no_excerpt() -> None:
    """As where a file was changed since it was compiled."""
    assert excerpt("one\ntwo", 2) == "  1 | one\n> 2 | two"
    assert excerpt("one\ntwo", 3) is None
    assert excerpt("one", 0) is None
    assert excerpt("", 1) is None


def test_a_fault_in_an_included_file_is_that_files(tmp_path: Path) -> None:
    """Its name and its lines, not those of the text that was asked for."""
    (tmp_path / "put.h").write_text(
        "inline void put(device float* y, uint at) {\n  y[at] = 1;\n}\n"
    )
    path = tmp_path / "k.metal"
    path.write_text(
        '#include <metal_stdlib>\nusing namespace metal;\n#include "put.h"\n'
        "kernel void f(device float* y [[buffer(0)]]) { put(y, 9); }\n"
    )
    with pytest.raises(orchard_ops.FaultError) as caught:
        sim.library(path).kernel("f").dispatch(
            [np.zeros(4, np.float32)], grid=1, group=1, strict=True
        )
    assert caught.value.line == 2
    assert Path(caught.value.file or "").name == "put.h"
    assert "> 2 |   y[at] = 1;" in caught.value.source


def test_a_race_knows_its_place() -> None:
    """A text without a file is called kernel.metal, and its lines are shown."""
    kernel = sim.library(text=FAULT).kernel("racing")
    with pytest.raises(orchard_ops.FaultError, match="race") as caught:
        kernel.dispatch([np.zeros(32, np.float32)], grid=1, group=32, strict=True)
    assert (caught.value.file, caught.value.line) == ("kernel.metal", 13)
    assert "> 13 |   shared[0] = i;" in caught.value.source


def test_a_limit_of_time_is_a_fault() -> None:
    """A kernel without an end says where it was."""
    text = """
    #include <metal_stdlib>
    kernel void f(device float* y [[buffer(0)]]) {
      while (metal::simd_sum(y[0]) == 0.0f) {}
    }
    """
    with pytest.raises(orchard_ops.FaultError, match=r"timeout of 0\.2") as caught:
        sim.library(text=text).kernel("f").dispatch(
            [np.zeros(1, np.float32)], grid=1, group=1, timeout=0.2
        )
    assert caught.value.kernel == "f"


def test_what_the_caller_did_is_no_fault(folder: Path) -> None:
    """Too many threads are the caller's."""
    kernel = scale(folder).kernel("copy_float")
    x = np.zeros(1, np.float32)
    with pytest.raises(orchard_ops.DeviceError) as caught:
        kernel.dispatch([x, x], grid=1, group=2048)
    assert type(caught.value) is orchard_ops.DeviceError


def test_a_complaint_of_the_compiler_knows_its_place(tmp_path: Path) -> None:
    """Compiler and rules of Metal alike give file, line, column and words."""
    path = tmp_path / "wrong.metal"
    path.write_text(
        "\nkernel void f(device float* y [[buffer(0)]]) {\n  y[0] = z;\n}\n"
    )
    library = sim.library(path)
    for call in (lambda: library.kernel("f"), library.check):
        with pytest.raises(orchard_ops.KernelCompileError) as caught:
            call()
        (found,) = caught.value.diagnostics
        assert found[:3] == (str(path), 3, 10)
        assert "undeclared identifier 'z'" in found.message
        assert "> 3 |   y[0] = z;" in caught.value.source


def test_a_kernel_is_what_compile_returns() -> None:
    """sim.compile is a library of a text, with one of its kernels."""
    text = "kernel void f(device float* y [[buffer(0)]]) { y[0] = N; }"
    kernel = sim.compile(text, "f", {"N": "4"})
    assert isinstance(kernel, sim.Kernel)
    assert (kernel.name, kernel.library.text) == ("f", text)
    assert "f of kernel.metal" in repr(kernel)
