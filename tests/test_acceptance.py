"""What the simulator refuses although it could run it, as Apple's compiler does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import orchard_ops
from orchard_ops import sim

FILE = Path(__file__).parent / "sim_kernels" / "refused.metal"
TEXT = FILE.read_text(encoding="utf-8")
SPACE = "without an address space"
MISTAKES = {
    "PARAMETER_WITHOUT_SPACE": SPACE,
    "REFERENCE_WITHOUT_SPACE": SPACE,
    "MEMBER_WITHOUT_SPACE": SPACE,
    "LOCAL_WITHOUT_SPACE": SPACE,
    "CAST_WITHOUT_SPACE": SPACE,
    "TEMPLATE_WITHOUT_SPACE": SPACE,
    "LOOP_WITHOUT_SPACE": SPACE,
    "DEVICE_TO_THREAD": "no matching function|address space",
    "OVERLOAD_WITHOUT_MATCH": "address space",
    "THREADGROUP_TO_DEVICE": "cannot initialize",
    "CONSTANT_TO_THREAD": "binding|address space|cannot",
    "WRITES_CONSTANT": "assign",
    "WRITES_CONST": "assign|read-only",
    "FLOAT_TO_BFLOAT": "no viable conversion",
    "BFLOAT_TO_FLOAT": "no viable conversion",
    "HALF_TO_BFLOAT": "no viable conversion",
    "BFLOAT_TIMES_FLOAT": "invalid operands",
    "VARIABLE_SIZE": "not a constant expression",
    "CONST_VARIABLE_SIZE": "not a constant expression",
    "MIXED_POSITIONS": "must have one type",
    "MIXED_WIDTHS": "must have one type",
    "FLOAT_POSITION": "must be uint or ushort",
    "INDEX_VECTOR": "must be a scalar",
    "VARIABLE_OUTSIDE": "program scope",
    "THREADGROUP_IN_FUNCTION": "outermost scope of a kernel|local address space",
    "FUNCTION_POINTER": "pointers to functions|without an address space",
    "VIRTUAL": "virtual",
    "RETURNS": "returns void",
    "USES_DOUBLE": "double",
    "EIGHT_ELEMENTS": "half8",
    "MIXED_MINIMUM": "no matching function",
    "ALLOCATES": "new",
}


def test_the_text_without_a_mistake_is_accepted() -> None:
    """With no macro set the file breaks no rule, in Metal 3.0 and 3.1."""
    for language in ("3.0", "3.1"):
        assert sim.check(TEXT, language=language) == sim.Footprint(64 * 4, ())
    sim.check(TEXT, {"USES_BFLOAT": "1"}, language="3.1")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused(mistake: str) -> None:
    """Each is refused for its own reason, with the file's name and line."""
    with pytest.raises(
        orchard_ops.KernelCompileError, match=MISTAKES[mistake]
    ) as found:
        sim.check(TEXT, {mistake: "1"})
    assert re.search(r"kernel\.metal:\d+", str(found.value))


def test_every_mistake_of_the_file_is_tried() -> None:
    """The table and the file name the same macros."""
    named = set(re.findall(r"(?:#ifdef |defined\()(\w+)", TEXT)) - {
        "USES_BFLOAT",
        "DYNAMIC_INDEX",
    }
    assert named == set(MISTAKES)


def test_metal_3_0_has_no_bfloat() -> None:
    """On macOS 13 there is no bfloat: a text that names it is refused."""
    with pytest.raises(orchard_ops.KernelCompileError, match="bfloat"):
        sim.check(TEXT, {"USES_BFLOAT": "1"}, language="3.0")


def test_an_unknown_language_is_refused() -> None:
    """A language version that there is no table for is an error, not a guess."""
    with pytest.raises(orchard_ops.InvalidProblemError, match=r"3\.0.*'2\.4'"):
        sim.check(TEXT, language="2.4")


def test_the_place_of_a_token_rule_is_right() -> None:
    """An error of ours names the line as the compiler's would."""
    text = "#include <metal_stdlib>\n\nvoid f(int a,\n       float* b) {}\n"
    with pytest.raises(orchard_ops.KernelCompileError, match=r"kernel\.metal:4:"):
        sim.check(text)


def test_an_array_that_is_no_register_is_reported() -> None:
    """Indexing by a value that is no constant is accepted, and named as a spill."""
    found = sim.check(TEXT, {"DYNAMIC_INDEX": "1"})
    assert found.spilled == ("[2 x float]",)


def test_a_loop_that_unrolls_is_no_spill() -> None:
    """Only what stays after full unrolling counts."""
    text = """
    #include <metal_stdlib>
    using namespace metal;
    kernel void f(device float* y [[buffer(0)]], constant int& n [[buffer(1)]]) {
      float x[8];
    #pragma clang loop unroll(full)
      for (int i = 0; i < LAST; ++i) x[i] = y[i];
    #pragma clang loop unroll(full)
      for (int i = 0; i < LAST; ++i) y[i + 8] = x[LAST - 1 - i];
    }"""
    assert not sim.check(text, {"LAST": "8"}).spilled
    assert sim.check(text, {"LAST": "n"}).spilled == ("[8 x float]",)
