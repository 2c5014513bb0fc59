// tests/simulator/kernels/accepted_types.metal: types and calls that Apple's
// compiler accepts and a stricter check would refuse.
#include <metal_stdlib>
using namespace metal;

struct Params {
  int count;
  float4 scale;
};
constant Params kPresets[2] = {{1, float4(1.0f)},
                               {2, {1.0f, 2.0f, 3.0f, 4.0f}}};
constant float2 kPair = float2(0.5f, 2.0f);

struct Point {
  float x;
  float y;
};
inline Point operator+(thread const Point& a, thread const Point& b) {
  return {a.x + b.x, a.y + b.y};
}
template <class T>
inline T twice(const thread T& x) {
  return x + x;
}
template <int (*pick)(int)>
inline int picked(int x) {
  return pick(x);
}
inline int next(int x) { return x + 1; }

// A member function gives a reference in thread space to a member.
struct Tile {
  float values[4];
  thread float& at(int i) { return values[i]; }
};

// What public kernels do with the members of a class: give them to functions in
// thread space, point into them, and add a class that is a number.
template <int n>
struct Number {
  constexpr operator int() const noexcept { return n; }
};
template <class T>
struct Constants {
  static constexpr constant float kSteps[2] = {0.5f, 1.0f};
};
template <>
struct Constants<int> {
  static constexpr constant int kSteps[2] = {1, 2};
};
constant constexpr int Constants<int>::kSteps[2];
inline void add_to(thread float2& x, float y) { x += y; }
template <class T>
struct Block {
  simdgroup_matrix<float, 8, 8> sums[2];
  vec<T, 2> pairs[3];
  METAL_FUNC thread T* elements() { return reinterpret_cast<thread T*>(pairs); }
  METAL_FUNC void add(simdgroup_matrix<float, 8, 8> a) {
    simdgroup_multiply_accumulate(sums[0], a, a, sums[0]);
    add_to(pairs[1], 1.0f);
    elements()[2] = 3.0f;
  }
};
template <class T, class Step>
METAL_FUNC T read_from(device const T* from, Step step) {
  vec<T, 2> sum = {from[0], from[1]};
  from += step;
  sum.x += from[0];
  return sum.x;
}
// Named as the function that it calls.
kernel void fmin(device float* x [[buffer(0)]],
                 uint i [[thread_position_in_grid]]) {
  uint4 three = {i, 2u, 3u};
  Block<float> block;
  block.sums[0] = simdgroup_float8x8(0.0f);
  block.add(simdgroup_float8x8(1.0f));
  x[i] = fmin(block.elements()[1], read_from(x, Number<1>())) + three.w;
  x[i] += Constants<int>::kSteps[i & 1];
}

kernel void types(device float* x [[buffer(0)]],
                  constant Params& p [[buffer(1)]],
                  device packed_float3* packed [[buffer(2)]],
                  uint i [[thread_position_in_grid]]) {
  Params own = p;
  own = kPresets[i & 1];
  float4 v = own.scale + kPair.xyxy;
  v.wzyx = v;
  v.rg *= 2.0f;
  v[i & 3] += 1.0f;
  float4 from_scalar = 1;
  float2 one_value = {0};
  half4 h = half4(v) * 0.5f;
  v = own.count > 0 ? v : float4(h);
  v += float4(packed[i], one_value.x) * from_scalar;
  packed[i] = v.xyz * 2.0f;
  bool4 is_large = v > 1.0f && !isnan(v);
  v = select(v, max(v, float4(0.5f)), is_large);
  uchar4 bytes = uchar4(v);
  ushort2 words = as_type<ushort2>(bytes);

  float3x3 m = float3x3(v.xyz, v.yzx, v.zxy);
  m[1][2] = 3.0f;
  v.xyz = transpose(m) * (m * v.xyz);
  Point sum = Point{x[0], x[1]} + Point{1.0f, 2.0f} + Point{0.0f, 1.0f};
  Tile tile;
  tile.at(0) = sum.x;
  tile.values[1] = twice(sum.y + 1.0f);
  int index = picked<next>(int(i));
  array<float, 2> both = {tile.values[0], tile.values[1]};
  float whole;
  float rest = modf(v.x, whole);
  v.y = pow(v.y, 2) + fmin(1, v.z / 6 + 0.5);
  static_assert(sizeof(float3) == 16 && sizeof(packed_float3) == 12, "");
  static_assert(is_same_v<decltype(v.xy), float2> || true, "");
  x[i] = v.x + both[1] + whole + rest + float(words.x + index);
#ifdef USES_BFLOAT
  bfloat narrow = 1.5bf;
  bfloat4 four = bfloat4(v);
  x[i] += narrow * four.x + narrow;
  narrow = i > 2 ? narrow : bfloat(x[i]);
  narrow += four.y;
  x[i] += exp(narrow) + max(narrow, four.z);
#endif
}
