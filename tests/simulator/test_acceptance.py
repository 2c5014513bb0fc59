"""What the simulator refuses although it could run it, as Apple's compiler does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from needs import needs_metalsim

import orchard_ops
from orchard_ops import sim

pytestmark = needs_metalsim("simulator")
FOLDER = Path(__file__).parent / "kernels"
TEXT = (FOLDER / "refused.metal").read_text(encoding="utf-8")
ACCEPTED = (FOLDER / "accepted.metal").read_text(encoding="utf-8")
SPACE = "without an address space"
STAGE = "keyword of Metal .it marks functions"
SPACE_WORD = "keyword of Metal .an address space"
MACRO = "a macro of Metal's library stands here"
OUTSIDE = "program scope variable must reside in constant"
NUMBER = "between 0 and 30"
TWICE = "cannot reserve '{}' resource location"
COMPONENTS = "all scalars or all vectors"
VALUE = "invalid type '{}' for an argument of a kernel"
# What each mistake of a file is refused for.
MISTAKES = {
    "refused.metal": {
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
        "BFLOAT_TO_HALF": "no viable conversion",
        "HALF_TO_BFLOAT": "no viable conversion",
        "BFLOAT_TIMES_FLOAT": "no viable conversion",
        "VARIABLE_SIZE": "not a constant expression",
        "CONST_VARIABLE_SIZE": "not a constant expression",
        "VARIABLE_OUTSIDE": OUTSIDE,
        "THREADGROUP_IN_FUNCTION": "declared in kernels only",
        "EIGHT_ELEMENTS": "half8",
        "MIXED_MINIMUM": "is ambiguous",
    },
    "refused_words.metal": {
        "STAGE_AS_PARAMETER": STAGE,
        "STAGE_AS_FUNCTION": STAGE,
        "STAGE_AS_MEMBER": STAGE,
        "STAGE_AS_TYPE": STAGE,
        "STAGE_AS_LOCAL": STAGE,
        "STAGE_IN_RECORD": "kernel function is no member",
        "SPACE_AS_PARAMETER": SPACE_WORD,
        "SPACE_AS_MEMBER": SPACE_WORD,
        "SPACE_AS_ENUMERATOR": SPACE_WORD,
        "SPACE_AS_LOCAL": SPACE_WORD,
        "OPENCL_SPACE": "'__global' is OpenCL's",
        "RESERVED_STRUCT": "conflicts with typedef",
        "RESERVED_FUNCTION": "different kind of symbol",
        "RESERVED_VECTOR": "typedef redefinition",
        "RESERVED_VARIABLE": "incomplete type",
        "MACRO_FUNCTION": MACRO,
        "MACRO_PARAMETER": MACRO,
        "MACRO_CONSTANT": MACRO,
        "MACRO_INFINITY": MACRO,
        "MACRO_MINIMUM": MACRO,
        "CALLED_MAIN": "cannot be called 'main'",
        "KEYWORD_AS_LOCAL": "'delete' is not supported",
        "OPERATOR_AS_LOCAL": "'bitand' is a keyword of C",
        "BFLOAT_AS_LOCAL": "'bfloat' is a keyword of Metal from 3.1",
        "VIRTUAL": "'virtual' is not supported",
        "DERIVED": "derived classes",
        "NOEXCEPT": "'noexcept' is not supported",
        "AUTO_TEMPLATE": "from Metal 4.0",
        "DEDUCTION_GUIDE": "from Metal 4.0",
        "CLASS_DEDUCTION": "requires template arguments",
        "CLASS_DEDUCTION_VALUE": "requires template arguments",
        "THREAD_LOCAL": "'thread_local' is not supported",
        "SPACE_BY_VALUE": "parameter may not be qualified",
        "CONSTEXPR_OUTSIDE": OUTSIDE,
        "CONST_OUTSIDE": OUTSIDE,
        "TEMPLATE_OUTSIDE": OUTSIDE,
        "THREADGROUP_OUTSIDE": OUTSIDE,
        "STATIC_MEMBER": "static member must reside in constant",
        "FUNCTION_CONSTANT_SPACE": OUTSIDE,
        "FUNCTION_CONSTANT_ARRAY": "a scalar or a vector",
        "FUNCTION_CONSTANT_STRUCT": "a scalar or a vector",
        "FLEXIBLE_ARRAY": "flexible array members",
        "DEFAULT_POINTER": SPACE,
        "FUNCTION_CONSTANT_VALUE": "has no initial value",
        "FUNCTION_CONSTANT_SIZE": "not a constant expression",
        "GOTO": "'goto' is not supported",
        "LABEL": "labeled statements",
        "ASSEMBLY": "'asm' is not supported",
        "THROW": "'throw' is not supported",
        "ALLOCATES": "'new' is not supported",
        "DYNAMIC_CAST": "'dynamic_cast' is not supported",
        "REGISTER": "'register' is not supported",
        "STATIC_LOCAL": "cannot be declared static",
        "DEVICE_LOCAL": "automatic variable qualified",
        "USES_DOUBLE": "'double' is not supported",
        "LONG_LONG": "'long long' is not supported",
        "LONG_DOUBLE": "'double' is not supported",
        "LAMBDA": "before 3.2",
        "EMPTY_ARRAY": "zero-length arrays",
        "SECOND_POINTER": SPACE,
        "INNER_POINTER": SPACE,
        "AUTO_REFERENCE": SPACE,
        "NAMED_CAST": SPACE,
        "ALIAS_POINTER": SPACE,
        "CONDITION_POINTER": SPACE,
        "SECOND_ARGUMENT": SPACE,
        "ARRAY_REFERENCE": SPACE,
        "THREADGROUP_COUNT": "at most 31 threadgroup variables",
        "THREADGROUP_BYTES": "at most 32768 bytes",
    },
    "refused_signatures.metal": {
        "CALLS_KERNEL_TEMPLATE": "cannot call the kernel",
        "CONSTANT_WITHOUT_INDEX": "takes one argument: its index",
        "NOEXCEPT_OPERATOR": "no such operator",
        "RETURNS_VALUE": "returns void",
        "OVERLOADED": "kernels are not overloaded",
        "CALLS_KERNEL": "cannot call the kernel 'other'",
        "SLOT_31": NUMBER,
        "SLOT_NEGATIVE": NUMBER,
        "SLOT_NAMED": NUMBER,
        "SLOT_TWICE": TWICE.format("buffer"),
        "THREADGROUP_SLOT_TWICE": TWICE.format("threadgroup"),
        "SLOT_MISSING": "takes one argument",
        "SCALAR_AS_SAMPLER": "'int' is not valid for attribute 'sampler'",
        "SCALAR_IN_BUFFER": "'uint' is not valid for attribute 'buffer'",
        "SCALAR_IN_THREADGROUP": "'int' is not valid for attribute 'threadgroup'",
        "SCALAR_ALONE": VALUE.format("int"),
        "STRUCT_ALONE": VALUE.format("Params"),
        "MISSPELT": VALUE.format("uint"),
        "FOREIGN_ATTRIBUTE": VALUE.format("uint"),
        "THREADGROUP_IN_BUFFER": "points to device or constant",
        "THREAD_IN_BUFFER": "points to device or constant",
        "DEVICE_IN_THREADGROUP": "points to threadgroup",
        "THREAD_ALONE": "device, constant or threadgroup",
        "POINTER_WITHOUT_SPACE": SPACE,
        "OTHER_STAGE": "'vertex_id' is not an input of a kernel",
        "TWO_ATTRIBUTES": "do not go together",
        "REFERENCE_TO_INPUT": "passed by value",
        "FLOAT_INPUT": "must be uint or ushort",
        "SIGNED_INPUT": "must be uint or ushort",
        "VECTOR_INDEX": "must be a scalar",
        "FOUR_COMPONENTS": "at most 3 components",
        "SCALAR_AND_VECTOR": COMPONENTS,
        "TWO_AND_THREE": COMPONENTS,
        "GRID_TYPES": "must have one type",
        "GROUP_TYPES": "must have one type",
        "SIMD_TYPES": "must have one type",
        "INDEX_TYPE": "must be uint where",
        "VARIADIC": "fixed number of arguments",
        "INSTANCE_OF_NONE": "explicit instantiation",
    },
    "refused_types.metal": {
        "FLOAT_AND_INT": "call to 'max' is ambiguous",
        "UNSIGNED_AND_INT": "call to 'clamp' is ambiguous",
        "OWN_SATURATE": "call to 'saturate' is ambiguous",
        "OWN_VECTOR_STEP": "call to 'step' is ambiguous",
        "NO_HYPOT": "hypot",
        "CONSTANT_CALLS": "'fmod' of Metal's library is not constexpr",
        "REFERENCE_TO_COMPONENT": "cannot bind|changes address space",
        "REFERENCE_TO_INDEXED": "cannot bind|changes address space",
        "POINTER_TO_COMPONENT": "address of",
        "COMPONENT_TWICE": "duplicate components",
        "COMPONENT_NAMES_MIXED": "illegal vector component",
        "COMPONENT_BEYOND": "illegal vector component",
        "TOO_FEW_COMPONENTS": "no matching constructor",
        "VECTOR_TO_SCALAR": "no viable conversion",
        "ELEMENT_TYPES": "no viable conversion",
        "ELEMENT_TYPES_TIMES": "invalid operands",
        "FRACTION_TO_INTEGERS": "invalid operands",
        "COMPARED_IS_BOOL": "no viable conversion",
        "TERNARY_TO_BFLOAT": "no viable conversion",
        "SIMD_OF_BFLOAT": "no matching function for call to 'simd_sum'",
        "SIMD_OF_LONG": "no matching function for call to 'simd_shuffle'",
        "SIMD_WITH_MASK": "no matching function",
        "MATRIX_OF_INT": "invalid element type",
        "MATRIX_OF_16": "invalid size",
        "MATRIX_FROM_THREAD": "no matching function",
        "FILLED_BY_FLOAT": "no matching function",
        "CONST_ELEMENTS": "not assignable",
        "BITS_OF_STRUCT": "scalars and vectors only",
        "BITS_OF_MORE": "different size",
        "ATOMIC_COPY": "deleted|no viable",
        "ATOMIC_ORDER": "memory_order_acquire",
        "ATOMIC_WORD": "no matching function",
        "ATOMIC_MEMBER": "used by functions",
        "NARROWED": "narrowed",
        "FLAGS_AS_INT": "cannot initialize",
    },
}
# Macros that switch on what is accepted.
EXTRAS = {"USES_BFLOAT", "DYNAMIC_INDEX"}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_text_without_a_mistake_is_accepted(name: str) -> None:
    """With no macro set a file breaks no rule, in Metal 3.0 and 3.1."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    expected = sim.Footprint(64 * 4 if text == TEXT else 0, ())
    for language in ("3.0", "3.1"):
        assert sim.check(text, language=language) == expected
    if text == TEXT:
        sim.check(text, {"USES_BFLOAT": "1"}, language="3.1")


@pytest.mark.parametrize(
    ("name", "mistake"), [(n, m) for n, found in MISTAKES.items() for m in found]
)
def test_a_mistake_is_refused(name: str, mistake: str) -> None:
    """Each is refused for its own reason, with the file's name and line."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    with pytest.raises(
        orchard_ops.KernelCompileError, match=MISTAKES[name][mistake]
    ) as found:
        sim.check(text, {mistake: "1"})
    assert re.search(r"kernel\.metal:\d+", str(found.value))


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_of_the_file_is_tried(name: str) -> None:
    """The table and the files name the same macros."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    named = set(re.findall(r"#ifdef (\w+)", text)) - EXTRAS
    assert named == set(MISTAKES[name])


@pytest.mark.parametrize("language", ["3.0", "3.1"])
def test_what_metal_has_is_accepted(language: str) -> None:
    """Names, declarations and signatures that a stricter check would refuse."""
    found = sim.check(ACCEPTED, language=language)
    # Of `attributed`: a tile, five pairs, zeroes, a counter and a block's.
    assert found.threadgroup_bytes == 4 * 72 + 8 * 5 + 16 + 4 + 16
    assert found.spilled == ()


@pytest.mark.parametrize("language", ["3.0", "3.1", "3.2", "4.0"])
def test_metals_types_are_accepted(language: str) -> None:
    """Conversions, swizzles, calls and copies that a stricter check would refuse."""
    text = (FOLDER / "accepted_types.metal").read_text(encoding="utf-8")
    defines = {} if language == "3.0" else {"USES_BFLOAT": "1"}
    sim.check(text, defines, language=language)


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
