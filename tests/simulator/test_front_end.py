"""Metal as other projects write it: what their kernels use and ours do not."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import skip_without_metalsim

import orchard_ops
from orchard_ops import sim

skip_without_metalsim("simulator")

HEAD = """#include <metal_stdlib>
using namespace metal;
#define ARGUMENTS                                                         \\
  device const float *x [[buffer(0)]], device float *y [[buffer(1)]],     \\
      uint i [[thread_position_in_grid]]
"""
BOTH = pytest.mark.parametrize("strict", [False, True])


def run(
    text: str,
    *arguments: Any,
    name: str = "f",
    group: int = 32,
    strict: bool | Collection[str] = True,
    constants: dict[int | str, bool | float] | None = None,
    **more: Any,
) -> None:
    """Dispatch the kernel f of a text in one threadgroup."""
    if "threads" not in more:
        more["grid"] = 1
    kernel = sim.library(text=HEAD + text).kernel(name, constants)
    kernel.dispatch(list(arguments), group=group, strict=strict, **more)


def floats(n: int = 32) -> np.ndarray:
    """Zeros, to be written."""
    return np.zeros(n, np.float32)


class TestOneKernelOfMany:
    """What is not asked for is not compiled."""

    TEXT = """
    template <typename T, int N> [[kernel]] void g(
        device T* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
      static_assert(N < 100, "too many");
      y[i] = T(N);
    }
    #define instance(name, N) \\
      template [[host_name("g_" #name "_" #N)]] [[kernel]] decltype(g<float, N>) \\
          g<float, N>;
    instance(of, 3) instance(of, 4) instance(of, 400)
    template [[host_name("by_type")]] [[kernel]] void g<half, 7>(
        device half* y [[buffer(0)]], uint i [[thread_position_in_grid]]);
    kernel void broken(device float* y [[buffer(0)]]) {
      static_assert(sizeof(y) == 1, "never right");
    }
    """

    def test_names_are_put_together(self) -> None:
        """Literals side by side are one name, as in C."""
        assert sim.library(text=HEAD + self.TEXT).names == (
            *("g_of_3", "g_of_4", "g_of_400", "by_type", "broken"),
        )

    def test_only_the_one_that_is_asked_for(self) -> None:
        """An instance that would not compile disturbs no other."""
        text = self.TEXT.replace('static_assert(sizeof(y) == 1, "never right");', "")
        y = floats()
        run(text, y, name="g_of_4")
        np.testing.assert_array_equal(y, 4)
        with pytest.raises(orchard_ops.KernelCompileError, match="too many"):
            run(text, y, name="g_of_400")
        z = np.zeros(32, np.float16)
        run(text, z, name="by_type")
        np.testing.assert_array_equal(z, 7)

    def test_a_name_that_is_none(self) -> None:
        """The message lists those that there are."""
        with pytest.raises(orchard_ops.KernelCompileError, match=r"it has: .*g_of_4"):
            run(self.TEXT, floats(), name="nothing")

    def test_an_instance_by_the_types_of_its_parameters(self) -> None:
        """Without arguments in angles Metal finds the template by the parameters."""
        text = """
        template <typename T, int N> struct Box { T at[N]; };
        template <typename T, int N> [[kernel]] void g(
            const device T* x [[buffer(0)]], const constant Box<T, N>* b [[buffer(1)]],
            device T* y [[buffer(2)]], uint i [[thread_position_in_grid]]) {
          y[i] = x[i] + b->at[N - 1];
        }
        template [[host_name("f")]] [[kernel]] void g(
            const device float* x [[buffer(0)]],
            const constant Box<float, 2>* b [[buffer(1)]],
            device float* y [[buffer(2)]], uint i [[thread_position_in_grid]]);
        """
        y = floats()
        x = np.arange(32, dtype=np.float32)
        run(text, x, np.array([5, 9], np.float32), y)
        np.testing.assert_array_equal(y, x + 9)

    def test_templates_of_one_name(self) -> None:
        """Attributes are taken from the template that takes the arguments."""
        text = """
        template <typename T, int A, int B>
        [[kernel, max_total_threads_per_threadgroup(A * B)]] void g(
            device T* y [[buffer(0)]], uint i [[thread_position_in_grid]]) { y[i] = 1; }
        template <typename T, int A>
        [[kernel]] void g(device T* y [[buffer(3)]]) {}
        template [[host_name("f")]] [[kernel]] decltype(g<float, 8, 4>) g<float, 8, 4>;
        """
        info = sim.library(text=HEAD + text).kernel("f").info
        assert info["max_threads"] == 32
        assert [p["index"] for p in info["parameters"]] == [0, 0]


class TestFunctionConstants:
    """Values that a host gives when it makes a pipeline."""

    TEXT = """
    #define FIRST 20
    constant bool twice [[function_constant(FIRST + 1)]];
    static constant constexpr const int add [[function_constant(22)]];
    constant float by_ [[function_constant(23)]];
    constant float by = is_function_constant_defined(by_) ? by_ : 3.0f;
    kernel void f(device float* y [[buffer(0)]],
                  device const float* x [[buffer(1), function_constant(twice)]],
                  uint i [[thread_position_in_grid]]) {
      y[i] = by * i + add;
      if (twice) y[i] += x[i];
    }
    """

    @pytest.mark.parametrize("keys", [(21, 22, 23), ("twice", "add", "by_")])
    def test_values_by_index_or_name(self, keys: tuple[int | str, ...]) -> None:
        """Each may be named either way; a default stands for one that is missing."""
        at = np.arange(32, dtype=np.float32)
        y = floats()
        run(self.TEXT, y, at, constants=dict(zip(keys, (True, -5, 0.5))))
        np.testing.assert_array_equal(y, 0.5 * at - 5 + at)
        run(self.TEXT, y, constants=dict(zip(keys[:2], (False, 7))))
        np.testing.assert_array_equal(y, 3 * at + 7)

    def test_a_value_that_is_used_and_missing(self) -> None:
        """The kernel is refused when it is made, naming the constant."""
        with pytest.raises(orchard_ops.KernelCompileError, match="constant add, which"):
            run(self.TEXT, floats(), constants={21: False})

    def test_a_constant_that_the_text_has_not(self) -> None:
        """It is refused with those that there are."""
        with pytest.raises(
            orchard_ops.KernelCompileError, match=r"twice \(21\), add \(22\).*one of x"
        ):
            run(self.TEXT, floats(), constants={"x": 1})


@BOTH
def test_a_parameter_that_nothing_is_bound_to(strict: bool) -> None:
    """It costs nothing until the kernel touches it."""
    text = """
    kernel void f(device float* y [[buffer(0)]], device const float* x [[buffer(1)]],
                  constant uint& n [[buffer(2)]],
                  uint i [[thread_position_in_grid]]) {
      y[i] = i < y[40] ? x[i] + n : 1.0f;
    }
    """
    y = floats(64)
    run(text, y, strict=strict)
    np.testing.assert_array_equal(y[:32], 1)
    y[40] = 3
    with pytest.raises(orchard_ops.FaultError, match=r"bound at index [12]"):
        run(text, y, strict=strict)


class TestGrids:
    """What Metal lets a host dispatch."""

    TEXT = """
    kernel void f(device uint* y [[buffer(0)]],
                  uint2 at [[thread_position_in_grid]],
                  uint2 all [[threads_per_grid]],
                  uint2 here [[threads_per_threadgroup]],
                  uint2 asked [[dispatch_threads_per_threadgroup]],
                  uint index [[thread_index_in_threadgroup]],
                  uint simdgroups [[simdgroups_per_threadgroup]]) {
      threadgroup uint count;
      if (index == 0) count = 0;
      threadgroup_barrier(mem_flags::mem_threadgroup);
      uint sum = simd_sum(1u);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      y[at.y * all.x + at.x] = here.x * 1000000 + here.y * 10000 + asked.x * 100 +
                               sum + simdgroups * 100000000;
    }
    """

    @BOTH
    @pytest.mark.parametrize("size", [(16, 8), (17, 9), (5, 3), (33, 1)])
    def test_threadgroups_at_the_edge_are_smaller(
        self, size: tuple[int, int], strict: bool
    ) -> None:
        """A host's dispatchThreads runs just so many threads."""
        wide, high = size
        y = np.zeros((high, wide), np.uint32)
        kernel = sim.library(text=HEAD + self.TEXT).kernel("f")
        counted = kernel.dispatch([y], threads=size, group=(8, 4), strict=strict)
        assert counted["threads"] == wide * high
        for row in range(high):
            for column in range(wide):
                x = min(8, wide - column // 8 * 8)
                lines = min(4, high - row // 4 * 4)
                assert y[row, column] == (
                    100000000 + x * 1000000 + lines * 10000 + 800 + x * lines
                )

    def test_several_threadgroup_arguments(self) -> None:
        """Each slot has memory of its own, and one without is refused."""
        text = """
        kernel void f(device float* y [[buffer(0)]],
                      threadgroup float* a [[threadgroup(0)]],
                      threadgroup float* b [[threadgroup(2)]],
                      uint i [[thread_index_in_threadgroup]]) {
          a[i] = i;
          b[i] = 100 * i;
          threadgroup_barrier(mem_flags::mem_threadgroup);
          y[i] = a[31 - i] + b[31 - i];
        }
        """
        y = floats()
        run(text, y, threadgroup_memory={0: 128, 2: 128})
        np.testing.assert_array_equal(y, 101 * np.arange(31, -1, -1))
        with pytest.raises(orchard_ops.DeviceError, match=r"parameter b: .* not set"):
            run(text, y, threadgroup_memory={0: 128})
        with pytest.raises(orchard_ops.DeviceError, match="40000 bytes, 32768"):
            run(text, y, threadgroup_memory={0: 20000, 2: 20000})
        with pytest.raises(orchard_ops.InvalidProblemError, match=r"0 to 30.*\[31\]"):
            run(text, y, threadgroup_memory={31: 16})


class TestDivergence:
    """simd_ functions act on the lanes that reach them together."""

    @BOTH
    @pytest.mark.parametrize("seed", range(3))
    def test_branches(self, strict: bool, seed: int) -> None:
        """Each branch has its own lanes, all join behind them."""
        text = """
        kernel void f(device float* y [[buffer(0)]],
                      uint i [[thread_index_in_simdgroup]]) {
          float v = i;
          if (i % 3 == 0) {
            v = simd_sum(v);
            if (i < 9) v += simd_max(v + i);
          } else {
            v = simd_is_first() ? -1.0f : simd_min(v);
          }
          y[i] = v + simd_sum(1.0f);
        }
        """
        y = floats()
        run(text, y, strict=strict, seed=seed)
        lanes = np.arange(32)
        of_three = lanes[lanes % 3 == 0]
        expected = np.where(lanes % 3 == 0, of_three.sum(), 2).astype(np.float32)
        expected[[0, 3, 6]] += of_three.sum() + 6
        expected[1] = -1
        np.testing.assert_array_equal(y, expected + 32)

    @BOTH
    def test_loops_of_different_length(self, strict: bool) -> None:
        """Lanes that have left a loop wait for the others, at a barrier too."""
        text = """
        kernel void f(device float* y [[buffer(0)]],
                      uint i [[thread_index_in_simdgroup]]) {
          float v = 0;
          for (uint k = 0; k <= i / 8; ++k) v += simd_sum(1.0f);
          simdgroup_barrier(mem_flags::mem_none);
          y[i] = v + simd_shuffle_xor(float(i), 1);
        }
        """
        y = floats()
        run(text, y, strict=strict)
        lanes = np.arange(32)
        rounds = np.cumsum([32, 24, 16, 8])
        np.testing.assert_array_equal(y, rounds[lanes // 8] + (lanes ^ 1))

    @BOTH
    def test_lanes_that_return(self, strict: bool) -> None:
        """Those that stay go on without them."""
        text = """
        kernel void f(device float* y [[buffer(0)]],
                      uint i [[thread_index_in_simdgroup]]) {
          if (i < 4) { y[i] = simd_sum(2.0f); return; }
          y[i] = simd_sum(1.0f);
        }
        """
        y = floats()
        run(text, y, strict=strict)
        np.testing.assert_array_equal(y, [8] * 4 + [28] * 28)

    @BOTH
    def test_what_nobody_can_tell(self, strict: bool) -> None:
        """Two places of one loop, reached equally often, are refused."""
        text = """
        kernel void f(device float* y [[buffer(0)]],
                      uint i [[thread_index_in_simdgroup]]) {
          float v = 0;
          for (uint k = 0; k < 3; ++k) {
            v += simd_sum(1.0f);
            if (i % 2 == 0) continue;
            v += simd_max(1.0f);
          }
          y[i] = v;
        }
        """
        with pytest.raises(orchard_ops.FaultError, match="diverge"):
            run(text, floats(), strict=strict)


def written(expected: Callable[[np.ndarray], np.ndarray], text: str) -> Any:
    """One case of TestLanguage: y[i] by numbers 0 to 31 in x."""
    return pytest.param(text, expected, id=text.strip().splitlines()[0].strip(" /"))


LANGUAGE = [
    written(
        lambda x: 2 * x + 5,
        """// a gate alone, packed components, casts among arguments
        constant bool gate [[function_constant(1)]];
        constant bool has = is_function_constant_defined(gate) ? gate : true;
        template <typename T, bool B> [[kernel]] void g(
            device const float* x [[function_constant(has)]],
            device float* y [[function_constant(has)]],
            uint i [[thread_position_in_grid]]) {
          packed_int3 p(1, 2, 3);
          p.x += vec_elements<float2>::value;
          y[i] = B ? x[i] * p.y + p.z + vec_elements<T>::value + p.data[0] - 2 : 0;
        }
        template [[host_name("f")]] [[kernel]] decltype(g<float, (bool)1>)
            g<float, (bool)1>;""",
    ),
    written(
        lambda x: x + 8,
        """// functions of namespaces fast and precise, what is unordered
        kernel void f(ARGUMENTS) {
          float4 v = float4(NAN, 1, NAN, 2);
          bool4 no = isunordered(v, float4(0)), yes = isordered(v, float4(0));
          y[i] = precise::fabs(-x[i]) + fast::floor(2.5f) +
                 precise::fmax3(1.0f, 2.0f, 3.0f) +
                 (no.x && no.z && !no.y && yes.w ? 3.0f : 0.0f) +
                 (isunordered(half(1), half(NAN)) ? 0.0f : 9.0f);
        }""",
    ),
    written(
        lambda x: x + 3,
        """// methods of an address space
        struct Pair {
          float a; float b;
          constexpr Pair() : a(0), b(0) {}
          constexpr Pair() threadgroup : a(0), b(0) {}
          Pair(float a, float b) thread : a(a), b(b) {}
          Pair(float a, float b) threadgroup : a{a}, b{b} {}
          float sum() const thread { return a + b; }
          float sum() const device { return a + b; }
          float sum() const threadgroup { return a + b; }
          operator float() const thread { return a; }
          operator float() const constant { return a; }
        };
        kernel void f(ARGUMENTS) {
          threadgroup Pair shared[32];
          shared[i] = Pair(x[i], 3);
          Pair p = shared[i];
          y[i] = shared[i].sum() + float(p) - x[i];
        }""",
    ),
    written(
        lambda x: np.where(x < 16, x, 2),
        """// ?: across address spaces
        struct C { float re; float im; };
        template <int A, int B>
        struct Pick { static constexpr constant int value = A; };
        kernel void f(device const C* x [[buffer(0)]],
                      device float* y [[buffer(1)]],
                      uint i [[thread_position_in_grid]]) {
          threadgroup C shared[32];
          shared[i] = i < 16 ? C{float(i), 0} : x[0];
          C c = i < 16 ? shared[i] : C{2, 0};
          using P = Pick<sizeof(C) == 8 ? 5 : 6, 1>;
          y[i] = c.re + (i > 40 ? P::value : 0);
        }""",
    ),
    written(
        lambda x: x * 0.5 + 4,
        """// bfloat with integers stays bfloat
        kernel void f(ARGUMENTS) {
          bfloat half_ = 1 / bfloat(2), n = 4, one = 1;
          static_assert(is_same_v<decltype(half_ * 3), bfloat>, "");
          static_assert(is_same_v<decltype(half_ * 3.0f), float>, "");
          y[i] = one < 2 && half_ == 0.5f ? x[i] * half_ + n : 0.0f;
        }""",
    ),
    written(
        lambda x: 2 * x + 1,
        """// internals of Apple's headers
        kernel void f(ARGUMENTS) {
          float up = __metal_simd_shuffle_and_fill_up(x[i], -1.0f, 1,
                                                      __metal_get_simdgroup_size(ushort()));
          y[i] = __metal_fma(x[i], 1.0f, up + 2.0f) +
                 0 * __metal_exp(x[i], __METAL_MAYBE_FAST_MATH__);
        }""",
    ),
    written(
        lambda x: 31 - x,
        """// copies by a simdgroup
        kernel void f(ARGUMENTS) {
          threadgroup float shared[8 * 5];
          __metal_simdgroup_event_t event = __metal_simdgroup_async_copy_2d(
              sizeof(float), alignof(float), (threadgroup void*)shared, 5, 1,
              ulong2(5, 8), (const device void*)x, 4, 1, ulong2(4, 8), long2(0), 0);
          __metal_wait_simdgroup_events(1, &event);
          threadgroup_barrier(mem_flags::mem_threadgroup);
          uint at = 31 - i;
          y[i] = shared[at / 4 * 5 + at % 4] + shared[i / 4 * 5 + 4];
        }""",
    ),
    written(
        lambda x: x + 10,
        """// unions, and vectors in braces
        union Bits { uint2 pair; uchar4 bytes[2]; };
        Bits of(uint v) { Bits b; b.pair = uint2(v, 0); return b; }
        kernel void f(ARGUMENTS) {
          Bits b = of(i);
          float4 v = {10.0f};
          float2 sum = {0};
          uint4 three = {1, 2, 3};
          y[i] = b.bytes[0].x + v.x + v.y + sum.y + three.w;
        }""",
    ),
    written(
        lambda x: x * 8,
        """// arrays as parameters, matrices, packed vectors
        float first(constant const float w[2], const thread array<float, 3>& a) {
          return w[0] * a[1] + a.size();
        }
        kernel void f(device const float x[32] [[buffer(0)]],
                      device float* y [[buffer(1)]],
                      constant const float w[2] [[buffer(2)]],
                      uint i [[thread_position_in_grid]]) {
          array<float, 3> a = {1, 0, 3};
          float4x4 m(2.0f);
          m[1][0] = 1;
          packed_char4 small = packed_char4(char4(1, 2, 3, 4));
          float4 v = m * float4(small) - float4(2, 0, 0, 0);
          half4x4 n = half4x4(m);
          y[i] = x[i] * (v.x + v.y + n[0][0]) + first(w, a) - 3;
        }""",
    ),
    written(
        lambda x: np.maximum(x - 4, 0) + 7,
        """// small functions
        kernel void f(ARGUMENTS) {
          uint u = subsat(uint(x[i]), 4u);
          float c, whole; int e;
          float s = precise::sincos(0.0f, c);
          float fraction = modf(2.5f, whole), m = frexp(8.0f, e);
          int4 picked = select(int4(1), 5, int4(1, 2, 3, 4) > 3);
          y[i] = u + s + c * whole + 2 * fraction + (e - 4) + m - 0.5f + picked.w -
                 fmedian3(1.0f, 9.0f, 2.0f) + addsat(char(127), char(1)) - 126.0f +
                 as_type<half4>(uint4(0).xy).x;
        }""",
    ),
    written(
        lambda x: x + 3,
        """// names that the simulator might take
        namespace detail { float largest(float a) { return a; } }
        namespace mover { float of(float a) { return a; } }
        constant os_log logger("project", "kernel");
        struct swizzle { float forward; };
        kernel void f(ARGUMENTS) {
          swizzle component_count = {mover::of(1.0f)};
          #define COUNT(x) ((x) + 1)
          #pragma unroll (COUNT(2))
          for (int abi = 0; abi < 2; ++abi) component_count.forward += 1;
          logger.log_debug("value %f", x[i]);
          y[i] = detail::largest(x[i]) + component_count.forward;
        }""",
    ),
    written(
        lambda x: np.minimum(x.min(), x) + 5,
        """// atomics of 64 bits, fences, coherent memory
        kernel void f(device const float* x [[buffer(0)]],
                      volatile coherent(device) device float* y [[buffer(1)]],
                      device atomic_ulong* least [[buffer(2)]],
                      uint i [[thread_position_in_grid]]) {
          atomic_min_explicit(&least[0], ulong(x[i]), memory_order_relaxed);
          atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst,
                              thread_scope_device);
          y[i] = 5;
        }""",
    ),
]


class TestLanguage:
    """Parts of the language and the library."""

    @BOTH
    @pytest.mark.parametrize(("text", "expected"), LANGUAGE)
    def test_values(
        self, text: str, expected: Callable[[np.ndarray], np.ndarray], strict: bool
    ) -> None:
        """What the text computes is what NumPy does."""
        x = np.arange(32, dtype=np.float32)
        y = floats()
        run(
            text,
            *([x] if "C* x" not in text else [np.full(2, 2.0, np.float32)]),
            y,
            *([np.array([0, 7], np.float32)] if "w[2]" in text else []),
            *([np.full(1, 99, np.uint64)] if "atomic_ulong" in text else []),
            strict=strict,
        )
        np.testing.assert_array_equal(y, expected(x))

    def test_a_threadgroup_variable_with_a_value_has_none(self) -> None:
        """Metal takes the initializer, and nothing says that it is executed."""
        text = """
        kernel void f(device float* y [[buffer(0)]],
                      uint i [[thread_position_in_grid]]) {
          threadgroup float shared[32] = {0}, one = 0.0f;
          if (y[0] == 0) shared[i] = i;
          threadgroup_barrier(mem_flags::mem_threadgroup);
          y[i] = shared[31 - i] + (y[1] == 1 ? one : 0.0f);
        }
        """
        y = floats()
        run(text, y)
        np.testing.assert_array_equal(y, np.arange(31, -1, -1))
        y[:] = 1
        with pytest.raises(orchard_ops.DeviceError, match="uninitialized"):
            run(text, y)

    def test_too_many_components(self) -> None:
        """More than a vector has are refused."""
        text = "kernel void f(device float* y [[buffer(0)]]) { float2 v(1, 2, 3); }"
        with pytest.raises(orchard_ops.KernelCompileError, match="too many components"):
            run(text, floats())


@pytest.mark.parametrize("space", ["thread", "threadgroup"])
@pytest.mark.parametrize("at", [-1, 8])
def test_an_index_that_an_array_has_not(space: str, at: int) -> None:
    """Strict mode sees arrays of one thread too, which lie on no guarded page."""
    text = f"""
    kernel void f(device float* y [[buffer(0)]], constant int& at [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {{
      {space} float values[8];
      for (uint k = 0; k < 8; ++k) values[k] = k;
      y[i] = values[at + int(i) * 0];
    }}
    """
    y = floats(1)
    run(text, y, 3, group=1)
    assert y[0] == 3
    with pytest.raises(orchard_ops.FaultError, match="out of bounds") as caught:
        run(text, y, at, group=1)
    assert caught.value.line == 11


class TestChecksByName:
    """Strict mode in parts."""

    RACE = """
    kernel void f(device float* y [[buffer(0)]],
                  uint i [[thread_index_in_threadgroup]]) {
      threadgroup float shared[64];
      shared[i % 32] = 1;
      y[i] = shared[i % 32];
      if (i == 0) y[40] = FAULT;
    }
    """
    FLAGS = """
    kernel void f(device float* y [[buffer(0)]],
                  uint i [[thread_index_in_threadgroup]]) {
      threadgroup float shared[64];
      shared[i] = i;
      threadgroup_barrier(mem_flags::mem_device);
      y[i] = shared[63 - i];
    }
    """
    OTHERS = ("bounds", "alignment", "barrier_flags", "uninitialized")

    def test_a_check_that_is_left_out(self) -> None:
        """Others stay on."""
        text = self.RACE.replace("FAULT", "y[5000]")
        y = floats(64)
        with pytest.raises(orchard_ops.FaultError, match=r"race on|out of bounds"):
            run(text, y, group=64)
        with pytest.raises(orchard_ops.FaultError, match="out of bounds"):
            run(text, y, group=64, strict=self.OTHERS)
        with pytest.raises(orchard_ops.FaultError, match="race on byte"):
            run(self.RACE.replace("FAULT", "1"), y, group=64, strict="races")

    def test_barrier_flags(self) -> None:
        """A barrier that fences other memory counts as one where they are left out."""
        y = floats(64)
        with pytest.raises(orchard_ops.FaultError, match="race on byte"):
            run(self.FLAGS, y, group=64)
        run(self.FLAGS, y, group=64, strict=("races", "bounds"))
        np.testing.assert_array_equal(y, np.arange(63, -1, -1))

    def test_alignment_and_what_was_never_written(self) -> None:
        """Each has its name."""
        text = """
        kernel void f(device float* y [[buffer(0)]]) {
          threadgroup float shared[4];
          device float2* pair = (device float2*)(y + 1);
          *pair = float2(1, 2);
          y[0] = shared[3];
        }
        """
        y = floats(8)
        with pytest.raises(orchard_ops.FaultError, match="misaligned"):
            run(text, y, group=1)
        with pytest.raises(orchard_ops.DeviceError, match="uninitialized"):
            run(text, y, group=1, strict=("bounds", "uninitialized"))
        run(text, y, group=1, strict=("bounds", "races"))
        np.testing.assert_array_equal(y[1:3], [1, 2])

    def test_a_place(self) -> None:
        """One line may do what the others may not."""
        text = self.RACE.replace("FAULT", "1")
        y = floats(64)
        run(text, y, group=64, suppress=["races@kernel.metal:10"])
        for place in ("races@kernel.metal:11", "bounds@kernel.metal:10", "races@l:10"):
            with pytest.raises(orchard_ops.FaultError, match="race on byte"):
                run(text, y, group=64, suppress=[place])

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"strict": ["races", "speed"]}, r"checks of \('races'.*got 'speed'"),
            ({"suppress": "races"}, r"'races@k.metal:42', got 'races'"),
            ({"suppress": ["speed@k.metal:4"]}, r"got 'speed@k.metal:4'"),
            ({"suppress": ["races@k.metal"]}, r"got 'races@k.metal'"),
        ],
    )
    def test_names_that_are_none(self, more: dict[str, Any], words: str) -> None:
        """They are refused before anything runs."""
        with pytest.raises(orchard_ops.InvalidProblemError, match=words):
            run(self.RACE.replace("FAULT", "1"), floats(64), group=64, **more)


@pytest.mark.parametrize("name", ["texture2d<float>", "depth2d<float, access::sample>"])
def test_textures(name: str) -> None:
    """They are refused in words of their own."""
    text = f"kernel void f({name} t [[texture(0)]]) {{}}"
    with pytest.raises(orchard_ops.KernelCompileError, match=r"no textures.*2d at"):
        run(text)


def test_an_included_file_of_the_project(tmp_path: Path) -> None:
    """Messages name the file of a template that another one includes."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "part.h").write_text(
        "template <class T> struct Part { T bad() thread const { return missing; } };\n"
    )
    path = tmp_path / "k.metal"
    path.write_text(
        '#include "deep/part.h"\nkernel void f(device float* y [[buffer(0)]]) {}\n'
    )
    with pytest.raises(orchard_ops.KernelCompileError, match="missing") as caught:
        sim.library(path).kernel("f")
    found = caught.value.diagnostics[0]
    assert (Path(found.file or "").name, found.line) == ("part.h", 1)
