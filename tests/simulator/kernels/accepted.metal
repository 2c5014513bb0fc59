// tests/simulator/kernels/accepted.metal: what Apple's compiler takes although
// C++, or C++ for OpenCL, would not, or a stricter check might not.
#include <metal_simdgroup_matrix>
#include <metal_stdlib>
using namespace metal;

// Names that are no keywords here: of OpenCL, of functions, of what only looks
// like a keyword.
inline float names(float local, float global, float pipe, float kernel_value) {
  float generic = local + global, read_only = pipe, thread0 = kernel_value;
  float max = generic > read_only ? generic : read_only;
  for (int step = 0; step < 2; ++step) max += thread0;
  float quad = max, complex = 1.0f, assert = 2.0f;
  return quad + complex + assert;
}
namespace own {
struct complex {
  float re, im;
};
inline float quad(float x) { return 4.0f * x; }
inline int main() { return 1; }
}  // namespace own

// Constants of the program.
constant bool has_mask [[function_constant(200)]];
constant int rows [[function_constant(201)]];
constant bool is_wide = has_mask && rows > 8;
static constant constexpr const int kWidth = 32;
constexpr constant static float kLevels[4] = {-1.0f, -0.25f, 0.25f, 1.0f};
template <class T>
constexpr constant int size_of = int(sizeof(T));
struct Tile {
  static constexpr constant short kSize = 4;
  union {
    uint bits;
    float value;
  };
};

// Spaces on either side, of arrays, of pointers to pointers.
typedef device float* Row;
using Shared = threadgroup float;
inline float first(float device const* x) { return x[0]; }
template <int N>
inline float total(thread const float (&values)[N]) {
  float sum = 0.0f;
  for (int k = 0; k < N; ++k) sum += values[k];
  return sum;
}
inline void advance(device const float*& x, int by) { x += by; }
inline float from_shared(Shared* x) { return x[0]; }
inline void through(device float* thread* at) { **at = 1.0f; }
template <int N>
struct alignas(N * sizeof(float)) Chunk {
  float values[N];
  float sum() const thread { return values[0]; }
  thread Chunk& operator+=(thread const Chunk& other) thread {
    values[0] += other.values[0];
    return *this;
  }
};

// Functions as values, recursion, deleted functions, several bases of a trait
// where the library's own rights hold.
inline int twice(int x) { return 2 * x; }
template <int (*f)(int)>
inline int apply(int x) {
  return f(x);
}
int depth(int n) { return n <= 1 ? 1 : 1 + depth(n / 2); }
struct Fixed {
  Fixed() = default;
  Fixed(thread const Fixed&) = delete;
};
#pragma METAL internals : enable
struct Trait : Tile {
  int value() const noexcept { return 1; }
};
#pragma METAL internals : disable

struct Bits {
  uint low : 3;
  uint high : 29;
};
enum class Side : uint { left, right };

struct Levels {
  float operator[](int i) const { return kLevels[i]; }
};

inline int choose(Side side, int x) {
  switch (side) {
    case Side::left:
      return x;
    default:
      break;
  }
  return x > 0 ? -x : x;
}

// Signatures.
struct Arguments {
  device float* x;
  constant int* n;
};
typedef uint index_t;

kernel void numbered(constant const float& start,
                     device float* out,
                     threadgroup float* shared,
                     uint i [[thread_position_in_grid]]) {
  out[i] = start + first(out) + from_shared(shared);
}

[[max_total_threads_per_threadgroup(1024)]]
kernel void attributed(device void* x [[buffer(30)]],
                       device const float* mask
                       [[buffer(1), function_constant(has_mask)]],
                       device const half* half_mask
                       [[buffer(1), function_constant(is_wide)]],
                       const device float* device* rows_of [[buffer(2 + 1)]],
                       constant float table[4] [[buffer(4)]],
                       threadgroup char* bytes [[threadgroup(30)]],
                       [[vendor::note]] uint3 group
                       [[threadgroup_position_in_grid]],
                       ushort3 local [[thread_position_in_threadgroup]],
                       ushort index [[thread_index_in_threadgroup]],
                       vec<uint, 3> grid [[threads_per_grid]],
                       ushort lane [[thread_index_in_simdgroup]],
                       const ushort simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float tile[8][9];
  threadgroup float2 pairs[4], one;
  threadgroup float zeroed[4] = {0};
  alignas(16) threadgroup uint count;
  threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
  simdgroup_barrier(mem_flags::mem_none);
  if (has_mask) {
    threadgroup float more[4];
    more[0] = mask[0];
  }
  threadgroup float2* pair = &pairs[0];
  threadgroup float (*lines)[9] = tile;
  threadgroup float (&line)[9] = lines[1];
  line[0] = 1'000.0f;
  tile[0][0] = pair->x + one.x + zeroed[0] + float(count) + table[0];
}

[[kernel]] void bundled(device float* y [[buffer(0)]],
                        Arguments arguments,
                        index_t i [[thread_position_in_grid]]) {
  device const float* at = arguments.x;
  advance(at, 1);
  device float* thread here = y;
  through(&here);
  int (*op)(int) = twice;
  float values[2] = {at[0], kLevels[i & 3]};
  Chunk<4> a, b;
  a += b;
  auto [left, right] = own::complex{1.0f, 2.0f};
  Tile tile;
  tile.value = float(size_of<float>) + left + right;
  for (short k = 0; k < decltype(tile)::kSize; ++k) y[k] += 1.0f;
  y[i] = total(values) + float(op(kWidth)) + float(apply<twice>(depth(4))) +
         names(1.0f, 2.0f, 3.0f, 4.0f) + own::quad(a.sum()) +
         float(choose(Side::left, own::main()));
  reinterpret_cast<device uint*>(y)[i] &= 1u;
  y[i] = *(device const float*)at * (y[i] * 2.0f) + (at[i] - 1.0f);
  if (i < 4u && i * 2u > 1u) y[0] = is_wide ? 1.0f : 0.0f;
}

template <class T, int N>
[[kernel, max_total_threads_per_threadgroup(N * 32)]] void generic_kernel(
    device T* x [[buffer(N - 4)]], uint i [[thread_position_in_grid]]) {
  threadgroup T shared[N == 4 ? 64 : N << 4];
  shared[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x[i] = shared[63u - i];
}
template [[host_name("generic_f32")]]
[[kernel]] decltype(generic_kernel<float, 4>) generic_kernel<float, 4>;
template [[host_name("generic_f16")]] kernel void generic_kernel<half, 8>(
    device half* x [[buffer(4)]], uint i [[thread_position_in_grid]]);
