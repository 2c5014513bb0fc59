"""Metal 4's tensor operations, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from needs import skip_without_metalsim

import orchard_ops
from orchard_ops import sim

skip_without_metalsim("simulator")
HEAD = """
#include <metal_stdlib>
#include <metal_tensor>
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
using namespace metal;
using namespace mpp::tensor_ops;
typedef dextents<int32_t, 2> Size;
"""
REGISTERS = """
kernel void f(device half* a [[buffer(0)]], device half* b [[buffer(1)]],
              device float* c [[buffer(2)]], device int* places [[buffer(3)]],
              uint lane [[thread_index_in_simdgroup]]) {
  constexpr auto plan = matmul2d_descriptor(16, 32, 16, TA, TB, true,
      matmul2d_descriptor::mode::multiply_accumulate);
  matmul2d<plan, execution_simdgroup> op;
  auto left = op.get_left_input_cooperative_tensor<half, half, float>();
  auto right = op.get_right_input_cooperative_tensor<half, half, float>();
  auto sums = op.get_destination_cooperative_tensor<decltype(left), decltype(right),
                                                    float>();
  left.load(tensor(a, Size(16, 16)));
  for (ushort i = 0; i < right.get_capacity(); ++i) {
    auto at = right.get_multidimensional_index(i);
    right[i] = b[at[1] * (TB ? 16 : 32) + at[0]];
  }
  for (ushort i = 0; i < sums.get_capacity(); ++i) {
    auto at = sums.get_multidimensional_index(i);
    sums[i] = at[0] - at[1];
    places[lane * 16 + i] = at[1] * 32 + at[0];
  }
  op.run(left, right, sums);
  sums.store(tensor(c, Size(32, 16)));
}
"""


LAYOUTS = pytest.mark.parametrize("layout", [None, "apple", "drawn"])


def draw(seed: int, *shape: int) -> np.ndarray:
    """Small halves, whose products and sums are exact in float."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float16)


def of(text: str, **defines: bool) -> sim.Kernel:
    """The kernel f of a text."""
    macros = {name: str(int(value)) for name, value in defines.items()}
    return sim.library(text=HEAD + text, defines=macros).kernel("f")


class TestRegisters:
    """All operands are cooperative tensors."""

    @LAYOUTS
    @pytest.mark.parametrize("strict", [False, True])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    @pytest.mark.parametrize(
        "turned", [(False, False), (True, False), (False, True), (True, True)]
    )
    def test_values(
        self,
        turned: tuple[bool, bool],
        seed: int,
        strict: bool,
        layout: str | None,
    ) -> None:
        """C += A B, whatever is transposed and wherever lanes hold elements."""
        left, right = turned
        a, b = draw(1, 16, 16), draw(2, 32, 16) if right else draw(2, 16, 32)
        c = np.zeros((16, 32), np.float32)
        places = np.zeros(512, np.int32)
        kernel = of(REGISTERS, TA=left, TB=right)
        kernel.dispatch(
            [a, b, c, places], 1, 32, seed=seed, strict=strict, layout=layout
        )
        row, column = np.indices(c.shape)
        expected = column - row + (a.T if left else a) @ (b.T if right else b)
        np.testing.assert_array_equal(c, expected)
        assert sorted(places) == list(range(512))

    def test_the_layout_is_the_known_one(self) -> None:
        """As MLX's kernels for the newest GPUs have it in their text."""
        places = np.zeros(512, np.int32)
        arrays = [draw(1, 16, 16), draw(2, 16, 32), np.zeros((16, 32), np.float32)]
        of(REGISTERS, TA=False, TB=False).dispatch([*arrays, places], 1, 32)
        for lane in range(32):
            quad = lane >> 2
            for i in range(16):
                row = ((quad & 4) | (lane >> 1 & 3)) + (i % 8 >> 2) * 8
                column = ((quad & 2) | (lane & 1)) * 4 + i % 4 + i // 8 * 16
                assert places[lane * 16 + i] == row * 32 + column

    def test_another_layout_is_another_one(self) -> None:
        """A kernel that counts on the known layout is found out."""
        found = []
        arrays = [draw(1, 16, 16), draw(2, 16, 32), np.zeros((16, 32), np.float32)]
        kernel = of(REGISTERS, TA=False, TB=False)
        for layout, seed in (("apple", 1), ("drawn", 0), ("drawn", 1), ("drawn", 2)):
            places = np.zeros(512, np.int32)
            kernel.dispatch([*arrays, places], 1, 32, seed=seed, layout=layout)
            found.append(places.tobytes())
        assert len(set(found)) == 4

    def test_a_layout_that_is_none(self) -> None:
        """It is refused by name."""
        arrays = [draw(1, 16, 16), draw(2, 16, 32), np.zeros((16, 32), np.float32)]
        kernel = of(REGISTERS, TA=False, TB=False)
        with pytest.raises(orchard_ops.InvalidProblemError, match="got 'm5'"):
            kernel.dispatch([*arrays, np.zeros(512, np.int32)], 1, 32, layout="m5")


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("scope", ["execution_thread", "execution_simdgroups<4>"])
@pytest.mark.parametrize("mode", ["multiply", "multiply_accumulate"])
def test_tensors_in_memory(scope: str, mode: str, strict: bool) -> None:
    """Tiles of a matrix that they do not divide: nothing outside is touched."""
    text = """
    kernel void f(device half* a [[buffer(0)]], device half* b [[buffer(1)]],
                  device float* c [[buffer(2)]],
                  uint2 tile [[threadgroup_position_in_grid]]) {
      auto A = tensor<device half, Size, tensor_inline>(a, Size(21, 70));
      auto B = tensor(b, Size(41, 21));
      auto C = tensor(c, Size(41, 70), array<int, 2>{1, 41});
      constexpr auto plan = matmul2d_descriptor(
          64, 32, dynamic_extent, false, false, false,
          matmul2d_descriptor::mode::MODE);
      matmul2d<plan, SCOPE> op;
      auto to = C.slice(tile.x * 32, tile.y * 64);
      op.run(A.slice(0, tile.y * 64), B.slice(tile.x * 32, 0), to);
    }
    """
    a, b = draw(3, 70, 21), draw(4, 21, 41)
    c = np.full((70, 41), 5, np.float32)
    kernel = sim.library(
        text=HEAD + text, defines={"SCOPE": scope, "MODE": mode}
    ).kernel("f")
    group = 1 if scope == "execution_thread" else 128
    kernel.dispatch([a, b, c], grid=(2, 2), group=group, strict=strict)
    added = 5 if mode == "multiply_accumulate" else 0
    np.testing.assert_array_equal(c, a.astype(np.float32) @ b + added)


@LAYOUTS
def test_reductions(layout: str | None) -> None:
    """By rows and columns; the identity of a maximum is 0 unless it is given."""
    text = """
    kernel void f(device half* a [[buffer(0)]], device float* rows [[buffer(1)]],
                  device float* most [[buffer(2)]], device float* trap [[buffer(3)]],
                  device float* columns [[buffer(4)]]) {
      constexpr auto plan = matmul2d_descriptor(16, 32, 16);
      matmul2d<plan, execution_simdgroup> op;
      auto left = op.get_left_input_cooperative_tensor<half, half, float>();
      auto right = op.get_right_input_cooperative_tensor<half, half, float>();
      typedef decltype(left) L;
      typedef decltype(right) R;
      auto sums = op.get_destination_cooperative_tensor<L, R, float>();
      sums.load(tensor(a, Size(32, 16)));
      auto by_row = op.get_row_reduction_destination_cooperative_tensor<L, R, float>();
      auto by_column =
          op.get_column_reduction_destination_cooperative_tensor<L, R, float>();
      reduce_rows(sums, by_row);
      for (ushort i = 0; i < by_row.get_capacity(); ++i)
        rows[by_row.get_multidimensional_index(i)[0]] = by_row[i];
      reduce_rows(sums, by_row, reduction_operation::max,
                  reduction_operation_identity<float>::max_identity);
      for (ushort i = 0; i < by_row.get_capacity(); ++i)
        most[by_row.get_multidimensional_index(i)[0]] = by_row[i];
      reduce_rows(sums, by_row, reduction_operation::max);
      for (ushort i = 0; i < by_row.get_capacity(); ++i)
        trap[by_row.get_multidimensional_index(i)[0]] = by_row[i];
      reduce_columns(sums, by_column, reduction_operation::min,
                     reduction_operation_identity<float>::min_identity);
      for (ushort i = 0; i < by_column.get_capacity(); ++i)
        columns[by_column.get_multidimensional_index(i)[0]] = by_column[i];
    }
    """
    a = draw(5, 16, 32)
    a[3] = -np.abs(a[3]) - 1
    rows, most, trap = (np.zeros(16, np.float32) for _ in range(3))
    columns = np.zeros(32, np.float32)
    arrays = [a, rows, most, trap, columns]
    # Not strict: lanes that hold elements of one row write the same value there.
    of(text).dispatch(arrays, 1, 32, seed=4, layout=layout)
    np.testing.assert_array_equal(rows, a.sum(1))
    np.testing.assert_array_equal(most, a.max(1))
    np.testing.assert_array_equal(trap, np.maximum(a.max(1), 0))
    np.testing.assert_array_equal(columns, a.min(0))


def test_a_destination_is_not_zeroed() -> None:
    """What a kernel reads before it wrote it is no number."""
    text = """
    kernel void f(device half* a [[buffer(0)]], device float* c [[buffer(1)]]) {
      constexpr auto plan = matmul2d_descriptor(
          16, 32, 16, false, false, false,
          matmul2d_descriptor::mode::multiply_accumulate);
      matmul2d<plan, execution_simdgroup> op;
      auto A = tensor(a, Size(16, 16));
      auto B = tensor(a, Size(32, 16));
      auto sums = op.get_destination_cooperative_tensor<decltype(A), decltype(B),
                                                        float>();
      op.run(A, B, sums);
      sums.store(tensor(c, Size(32, 16)));
    }
    """
    c = np.zeros((16, 32), np.float32)
    of(text).dispatch([draw(6, 512), c], 1, 32, strict=False)
    assert np.isnan(c).all()
