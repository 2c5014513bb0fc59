"""What the simulator refuses: every broken kernel must be caught."""

from __future__ import annotations

import signal
import subprocess

import numpy as np
import pytest
from needs import skip_without_metalsim
from test_simulator import KERNELS, kernel

import orchard_ops
from orchard_ops import sim
from orchard_ops._child import python

skip_without_metalsim("simulator")
BOTH = pytest.mark.parametrize("strict", [False, True])


def refuse(entry, arguments, groups, threads, match, strict=True, **more):
    """Dispatch a broken kernel; the error must match."""
    compiled = kernel("broken", entry)
    with pytest.raises(RuntimeError, match=match) as caught:
        compiled.dispatch(arguments, groups, threads, strict=strict, **more)
    return str(caught.value)


def zeros(n):
    """A fresh float32 array."""
    return np.zeros(n, np.float32)


def test_missing_barrier_is_a_race():
    """Strict mode names both accesses that no barrier separates."""
    broken = kernel("reverse", BARRIER="")
    with pytest.raises(RuntimeError, match=r"race.*earlier access") as caught:
        broken.dispatch([zeros(64)], 1, 64, strict=True)
    assert "kernel.metal:14" in str(caught.value)
    assert "kernel.metal:16" in str(caught.value)


def test_missing_barrier_shows_in_results():
    """A missing barrier changes results under some schedule."""
    broken = kernel("reverse", BARRIER="")
    want = np.arange(64, dtype=np.float32)[::-1]
    wrong = 0
    for seed in range(8):
        x = np.arange(64, dtype=np.float32)
        broken.dispatch([x], 1, 64, seed=seed, strict=False)
        wrong += not np.array_equal(want, x)
    assert wrong > 0


def test_right_barrier_is_no_race():
    """The same kernel with its barrier passes strict mode."""
    x = np.arange(128, dtype=np.float32)
    kernel("reverse").dispatch([x], 2, 64, strict=True)
    np.testing.assert_array_equal(np.arange(64)[::-1], x[:64])


def test_barrier_without_memory_flag_is_a_race():
    """A barrier that orders no memory does not end a race."""
    broken = kernel("reverse", BARRIER="threadgroup_barrier(mem_flags::mem_none)")
    with pytest.raises(RuntimeError, match="race"):
        broken.dispatch([zeros(64)], 1, 64, strict=True)


def test_race_between_lanes():
    """Lanes of one simdgroup need a barrier too."""
    refuse("lanes_race", [zeros(32)], 1, 32, "race")


def test_race_between_threadgroups():
    """Two threadgroups may not write the same byte."""
    refuse("two_groups_write", [zeros(4)], 2, 1, "race: two threadgroups")


@BOTH
def test_read_out_of_bounds(strict):
    """A read past the end names kernel, line, lane and buffer."""
    text = refuse(
        "read_past_end",
        [zeros(64), zeros(64), np.uint32(64)],
        1,
        64,
        "out of bounds",
        strict,
    )
    assert "read_past_end" in text
    assert "kernel.metal:10" in text
    assert "lane" in text


@BOTH
@pytest.mark.parametrize("distance", [1, 5, 2000, -1])
def test_write_out_of_bounds(strict, distance):
    """A write one element or far outside the buffer is caught."""
    refuse(
        "write_past_end",
        [zeros(60), np.int32(distance)],
        1,
        60,
        "out of bounds",
        strict,
    )


@BOTH
def test_divergent_barrier(strict):
    """A barrier that half of the threads skip is an error."""
    refuse("divergent_barrier", [zeros(64)], 1, 64, "barrier", strict)


@BOTH
def test_divergent_lanes(strict):
    """Lanes that meet at different barriers are an error."""
    refuse("divergent_lanes", [zeros(32)], 1, 32, "diverge", strict)


@BOTH
@pytest.mark.parametrize("seed", range(4))
def test_divergent_multiply(strict, seed):
    """A matrix multiply that some lanes skip is an error under any schedule."""
    refuse("divergent_multiply", [zeros(32)], 1, 32, "lane", strict, seed=seed)


@BOTH
def test_too_much_threadgroup_memory(strict):
    """Declared threadgroup memory above 32 KiB is refused."""
    refuse("too_much_memory", [zeros(64)], 1, 64, "32768", strict)


def test_threadgroup_memory_past_end():
    """An access past the set threadgroup memory is caught."""
    refuse(
        "memory_past_end", [zeros(64)], 1, 64, "out of bounds", threadgroup_memory=128
    )


def test_uninitialized_threadgroup_memory():
    """Memory that nobody wrote may not reach a result."""
    text = refuse("uninitialized_memory", [zeros(64)], 1, 64, "uninitialized")
    assert "kernel.metal:56" in text


def test_masked_uninitialized_read_is_counted():
    """A read of unwritten memory that is masked out is counted, not refused."""
    compiled = kernel("broken", "masked_uninitialized")
    counted = compiled.dispatch([zeros(64)], 1, 64, strict=True)
    assert counted["uninitialized_reads"] == 32


@BOTH
def test_misaligned_vector(strict):
    """A vector load needs the vector's alignment."""
    refuse("misaligned_vector", [zeros(64), zeros(64)], 1, 4, "misaligned", strict)


def test_too_many_threads():
    """1,025 threads in a threadgroup are refused."""
    compiled = kernel("saxpy")
    with pytest.raises(RuntimeError, match="1025 threads"):
        compiled.dispatch([zeros(2048), zeros(2048), 1.0], 1, 1025)


def test_threadgroup_length_is_a_multiple_of_16():
    """Metal's rule on the length of threadgroup memory holds."""
    refuse("memory_past_end", [zeros(4)], 1, 4, "multiple of 16", threadgroup_memory=20)


def test_bytes_above_4096():
    """More than 4,096 bytes may not be set as an argument."""
    compiled = kernel("saxpy")
    with pytest.raises(RuntimeError, match="4096"):
        compiled.dispatch([zeros(4), zeros(4), b"x" * 5000], 1, 4)


@BOTH
@pytest.mark.parametrize("threads", [32, 256])
@pytest.mark.parametrize("entry", ["endless", "endless_barriers", "endless_sums"])
def test_endless_kernel(entry, threads, strict):
    """A time limit ends a kernel wherever it is; the error says where."""
    text = refuse(entry, [zeros(4)], 4, threads, "timeout of 0.1", strict, timeout=0.1)
    assert f"kernel {entry}" in text
    assert "threadgroup (2, 0, 0)" in text
    x, y = np.ones(64, np.float32), zeros(64)
    kernel("saxpy").dispatch([x, y, 3.0], 1, 64, timeout=3600.0)
    assert y[0] == 3


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), float("nan")])
def test_timeout_is_a_length_of_time(timeout):
    """Other numbers than seconds above zero are refused."""
    with pytest.raises(orchard_ops.InvalidProblemError, match="more than 0 seconds"):
        kernel("saxpy").dispatch([zeros(4), zeros(4), 1.0], 1, 4, timeout=timeout)


PROGRAM = """
import signal, sys, numpy as np
from orchard_ops import sim
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job ignores it
kernel = sim.compile(open(sys.argv[1]).read(), "endless")
for handler in ("first", "second"):  # a handler is not lost
    try:
        print("ready", flush=True)
        kernel.dispatch([np.zeros(4, np.float32)], 4, 32)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_interrupt_ends_a_kernel():
    """Ctrl-C raises KeyboardInterrupt, as it does between Python's own steps."""
    program = subprocess.Popen(
        python(PROGRAM, str(KERNELS / "broken.metal")),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(2):
            assert program.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                program.wait(0.5)
            program.send_signal(signal.SIGINT)
            assert program.stdout.readline() == "interrupted\n"
        assert program.wait(60) == 0
    finally:
        program.kill()
        program.wait()
        program.stdout.close()


def test_errors_leave_the_device_usable():
    """After each kind of error the next kernel runs."""
    refuse("divergent_lanes", [zeros(32)], 1, 32, "diverge")
    refuse("write_past_end", [zeros(32), np.int32(2000)], 1, 32, "out of bounds", False)
    x, y = np.ones(64, np.float32), zeros(64)
    kernel("saxpy").dispatch([x, y, 3.0], 1, 64)
    np.testing.assert_array_equal(np.full(64, 3), y)


def test_compile_error_has_the_compilers_message():
    """A compile error names the kernel's line and the compiler's reason."""
    text = "\n\nkernel void f(device float* x [[buffer(0)]]) {\n  x[0] = nothing;\n}\n"
    with pytest.raises(Exception, match=r"kernel.metal:4.*nothing") as caught:
        sim.compile(text, "f")
    assert type(caught.value).__name__ == "KernelCompileError"


@pytest.mark.parametrize(
    "statement",
    [
        "threadgroup float* y = x;",
        "device float* y = t;",
        "constant float* y = x; device float* z = y;",
    ],
)
def test_address_spaces(statement):
    """A pointer into one address space is not a pointer into another."""
    text = (
        "kernel void f(device float* x [[buffer(0)]],"
        " threadgroup float* t [[threadgroup(0)]]) {" + statement + "}"
    )
    with pytest.raises(Exception, match="cannot initialize"):
        sim.compile(text, "f")


def test_unknown_entry():
    """An entry that is not there is refused with the names that are."""
    with pytest.raises(Exception, match="it has: saxpy"):
        sim.compile((KERNELS / "saxpy.metal").read_text(encoding="utf-8"), "nothing")
