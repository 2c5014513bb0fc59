"""What the kernels ask of Metal is written down, and none of their names is taken."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from metal_constructs import Construct, constructs, host_types
from metal_text import Declared, declared, device_text, kernel_files, words
from paths import ROOT

PAGE = ROOT / "docs" / "metal-rules.md"
NAMES = Path(__file__).parent / "metal_names.txt"
VERSIONS = ("1.0", "2.0", "2.1", "2.2", "2.3", "2.4", "3.0", "3.1")
SOURCES = words("MLX ggml candle PyTorch tinygrad header specification assumed as")
# The library's families of vectors and matrices.
NUMBER = "bool|u?char|u?short|u?int|u?long|u?llong|half|bfloat|float|double|quad"
FAMILY = re.compile(
    rf"(simd_packed_|packed_|simd_|vector_)?({NUMBER})(2|3|4|8|16)"
    r"|(matrix_|simd_)?(half|float|double)[234]x[234]"
)


def rows() -> dict[Construct, tuple[str, str]]:
    """Read the page's tables: construct → (version, source)."""
    row = re.compile(r"^\| `([^`]+)` \| ([\d.]+) \| (.+) \|$", re.M)
    found: dict[Construct, tuple[str, str]] = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        kind, _, text = section.partition("\n")
        for form, version, source in row.findall(text):
            assert (kind, form) not in found, f"two rows of {form}"
            found[kind, form] = (version, source)
    return found


@cache
def kernels() -> dict[Path, str]:
    """Return what Metal's compiler gets."""
    return {p: device_text(p.read_text(encoding="utf-8")) for p in kernel_files()}


def kernels_and(text: str) -> dict[Path, str]:
    """Return what Metal's compiler gets, and one more text."""
    return {**kernels(), Path("extra.metal"): device_text(text)}


def uses() -> set[Construct]:
    """List what the kernels use."""
    return constructs(kernels(), declared(kernels())) | host_types()


def uses_of(text: str) -> set[Construct]:
    """List what one more text would add."""
    own = declared(kernels_and(text))
    return constructs({Path("extra.metal"): device_text(text)}, own)


def test_the_page_lists_what_the_kernels_use() -> None:
    """Add a row that says where else it compiles, or rewrite the kernel."""
    listed, found = rows().keys(), uses()
    new = [
        f"{PAGE.name} has no row in {kind} for {one}" for kind, one in found - listed
    ]
    old = [f"no kernel uses {one} ({kind})" for kind, one in listed - found]
    assert not new + old, "\n".join([PAGE.name, *sorted(new + old)])


def test_each_row_has_a_version_and_a_source() -> None:
    """No row is empty, or asks for more than the package's languages."""
    for (_, construct), (version, source) in rows().items():
        assert version in VERSIONS, construct
        assert SOURCES & set(re.findall(r"\w+", source)), construct


@pytest.mark.parametrize(
    ("line", "construct"),
    [
        ("float y = simd_max(x);", "simd_max(float)"),
        ("float y = max3(x, x, x);", "max3(float, float, float)"),
        ("half y = half(x); y = max(y, y);", "max(half, half)"),
        ("float y = fast::exp(x);", "fast::exp(float)"),
        ("float4 y = float4(x, x, x, x);", "float4"),
        ("simdgroup_barrier(mem_flags::mem_none);", "mem_flags::mem_none"),
        ("uint y = as_type<ushort>(ELEM(x));", "as_type<ushort>(T)"),
        ("simdgroup_store(m, to);", "simdgroup_store(matrix<float>, device float*)"),
        ("threadgroup atomic_uint* y = 0;", "atomic_uint"),
        ("device float& y = *to;", "device T&"),
        ("float y = x + INFINITY;", "INFINITY"),
        ("auto y = [](float z) { return z; };", "auto"),
    ],
)
def test_a_new_construct_is_noticed(line: str, construct: str) -> None:
    """Library functions by operand types, types, forms, macros, words of C++."""
    text = (
        f"inline void f(float x, device float* to, thread Accumulator& m) {{ {line} }}"
    )
    new = uses_of(text) - rows().keys()
    assert construct in {form for _, form in new}


@pytest.mark.parametrize(
    ("text", "construct"),
    [
        ("#pragma unroll\n", "#pragma unroll"),
        ("#include <metal_atomic>\n", "#include <metal_atomic>"),
        (
            "kernel void f(uint i [[thread_position_in_grid]]) {}",
            "uint [[thread_position_in_grid]]",
        ),
        (
            "kernel void f(uint2 i [[threads_per_grid]]) {}",
            "uint2 [[threads_per_grid]]",
        ),
        ('[[host_name("f")]] kernel void f() {}', "[[host_name(n)]]"),
        (
            "#ifdef __METAL_VERSION__\nfloat f() { return sin(1.0f); }\n#endif",
            "sin(float)",
        ),
    ],
)
def test_a_new_declaration_is_noticed(text: str, construct: str) -> None:
    """Pragmas, headers, attributes with their parameter's type."""
    new = uses_of(text) - rows().keys()
    assert construct in {form for _, form in new}


def test_what_only_the_host_compiles_is_no_use() -> None:
    """The headers are shared with C++, whose part no row stands for."""
    host = "#ifndef __METAL_VERSION__\nfloat f() { return sin(1.0f); }\n#endif"
    assert uses_of(host) == uses_of("")


def taken() -> dict[str, set[str]]:
    """Read the names that Metal has taken, by kind."""
    found: dict[str, set[str]] = {}
    kind = ""
    for line in NAMES.read_text(encoding="utf-8").partition("\n\n")[2].splitlines():
        if line.startswith(" "):
            found[kind].update(line.split())
        else:
            kind = line
            found[kind] = set()
    return found


def clashes(own: Declared) -> list[str]:
    """Name what the kernels declare though Metal has it."""
    metal = taken()
    reserved = metal["keywords"] | metal["macros"] | {"quad", "complex", "imaginary"}
    found = own.names & reserved
    found |= {n for n in own.names if FAMILY.fullmatch(n)}
    found |= own.globals & (metal["types"] | metal["functions"])
    return sorted(found)


def test_no_name_is_taken() -> None:
    """No keyword or macro of Metal's anywhere, no name of its library globally."""
    own = declared(kernels())
    assert {"forward", "lane_position", "SLICE_DIM", "Lane", "Operand"} <= own.globals
    assert {"row0", "simdgroup", "column", "seed_low"} <= own.names
    assert not clashes(own)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("inline void f(thread float& fragment) {}", "fragment"),
        ("inline void f(int vertex, int y) {}", "vertex"),
        ("struct S {\n  int coherent;\n};", "coherent"),
        ("inline void f() { int xor = 1; }", "xor"),
        ("struct float8 {\n  int x;\n};", "float8"),
        ("inline float saturate(float x) { return x; }", "saturate"),
        ("typedef int sampler;", "sampler"),
        ("#define assert(x)\n", "assert"),
        ("inline void f() { float M_PI_F = 3.0f; }", "M_PI_F"),
        ("template <int complex>\ninline void f() {}", "complex"),
    ],
)
def test_a_taken_name_is_noticed(text: str, name: str) -> None:
    """Parameters, members, locals, types, functions, macros, template parameters."""
    assert clashes(declared(kernels_and(text))) == [name]


def test_a_local_may_hide_a_function() -> None:
    """As `round` and `any` do in the kernels: the inner declaration counts."""
    text = "inline void f() { int round = 1; int length = round; }"
    assert not clashes(declared(kernels_and(text)))
