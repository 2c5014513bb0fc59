// tests/simulator/kernels/refused.metal: what Apple's compiler refuses and a
// CPU could run; each macro switches one mistake on.
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

struct Params {
  int count;
  float scale;
};

template <class T>
struct Box {
  T value;
};

inline void add(device const float* from, thread float* to) {
  to[0] += from[0];
}

#ifdef PARAMETER_WITHOUT_SPACE
inline void helper(float* x) { x[0] = 1.0f; }
#endif
#ifdef REFERENCE_WITHOUT_SPACE
inline void helper(thread float* x, const Params& p) { x[0] = p.scale; }
#endif
#ifdef MEMBER_WITHOUT_SPACE
struct Holder {
  float* at;
};
#endif
#ifdef VARIABLE_OUTSIDE
int counter = 0;
#endif
#ifdef THREADGROUP_IN_FUNCTION
inline void helper() { threadgroup float tile[32]; }
#endif
#ifdef OVERLOAD_WITHOUT_MATCH
inline void helper(threadgroup float* x) { add(x, x); }
#endif

kernel void refused(device const float* x [[buffer(0)]],
                    device float* y [[buffer(1)]],
                    constant Params& p [[buffer(2)]],
                    uint3 group [[threadgroup_position_in_grid]]) {
  threadgroup float tile[64];
  float sum[2] = {0.0f, 0.0f};
  add(x + group.x, sum);
  tile[0] = sum[0] * 0.5;
  Box<float2> pair;
  pair.value = float2(sum[0], p.scale);
  *(device float2*)y = pair.value;
#ifdef DEVICE_TO_THREAD
  add(x, y);
#endif
#ifdef THREADGROUP_TO_DEVICE
  device float* other = tile;
#endif
#ifdef CONSTANT_TO_THREAD
  thread const Params& copy = p;
#endif
#ifdef WRITES_CONSTANT
  p.count = 1;
#endif
#ifdef WRITES_CONST
  x[0] = 1.0f;
#endif
#ifdef LOCAL_WITHOUT_SPACE
  const float* other = x;
#endif
#ifdef CAST_WITHOUT_SPACE
  y[1] = *(const float*)x;
#endif
#ifdef TEMPLATE_WITHOUT_SPACE
  Box<float*> box;
#endif
#ifdef LOOP_WITHOUT_SPACE
  for (float* at = sum; at < sum + 2; ++at) y[1] += at[0];
#endif
#ifdef FLOAT_TO_BFLOAT
  bfloat narrow = p.scale;
#endif
#ifdef BFLOAT_TO_HALF
  half narrow = bfloat(p.scale);
#endif
#ifdef HALF_TO_BFLOAT
  bfloat narrow = half(p.scale);
#endif
#ifdef BFLOAT_TIMES_FLOAT
  bfloat scaled = bfloat(p.scale) * p.scale;
#endif
#ifdef USES_BFLOAT
  bfloat narrow = bfloat(p.scale);
#endif
#ifdef VARIABLE_SIZE
  float more[p.count];
#endif
#ifdef CONST_VARIABLE_SIZE
  const int n = p.count;
  float more[n];
#endif
#ifdef EIGHT_ELEMENTS
  half8 wide;
#endif
#ifdef MIXED_MINIMUM
  y[1] = min(p.count, p.scale);
#endif
#ifdef DYNAMIC_INDEX  // accepted, but a spill
  y[1] = sum[uint(p.count) % 2];
#endif
}
