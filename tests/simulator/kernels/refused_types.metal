// tests/simulator/kernels/refused_types.metal: types and calls that Apple's
// compiler refuses; each macro switches one mistake on.
#include <metal_stdlib>
using namespace metal;

struct Word {
  uint bits;
};

#ifdef OWN_SATURATE
inline float saturate(float x) { return x < 0.0f ? 0.0f : x; }
#endif
#ifdef OWN_VECTOR_STEP
inline float2 step(float2 edge, float2 x) { return x - edge; }
#endif
#ifdef CONSTANT_CALLS
constexpr float phase(float x) { return fmod(x, 2.0f); }
#endif
inline void bump(thread float& x) { x += 1.0f; }
#ifdef CONST_ELEMENTS
inline void clear(thread const simdgroup_float8x8& m) {
  m.thread_elements()[1] = 0.0f;
}
#endif

kernel void mistakes(device float* x [[buffer(0)]],
                     constant int& n [[buffer(1)]],
                     device atomic_uint* count [[buffer(2)]],
                     uint i [[thread_position_in_grid]]) {
  float4 v = float4(x[0], x[1], x[2], x[3]);
  half4 h = half4(v);
  int2 pair = int2(n, 1);

  // One type for all arguments of an overload.
#ifdef FLOAT_AND_INT
  x[i] = max(x[i], 0);
#endif
#ifdef UNSIGNED_AND_INT
  x[i] = float(clamp(i, 0, n));
#endif
#ifdef OWN_SATURATE
  x[i] = saturate(x[i]);
#endif
#ifdef OWN_VECTOR_STEP
  v.xy = step(v.xy, v.zw);
#endif
#ifdef NO_HYPOT
  x[i] = hypot(x[i], 1.0f);
#endif

  // A component is no object.
#ifdef REFERENCE_TO_COMPONENT
  thread float& first = v.x;
#endif
#ifdef REFERENCE_TO_INDEXED
  bump(v[n]);
#endif
#ifdef POINTER_TO_COMPONENT
  thread float* first = &v.y;
#endif
#ifdef COMPONENT_TWICE
  v.zz = v.xy;
#endif
#ifdef COMPONENT_NAMES_MIXED
  x[i] = v.xb.x;
#endif
#ifdef COMPONENT_BEYOND
  x[i] = v.xy.z;
#endif

  // Conversions of vectors are written out.
#ifdef TOO_FEW_COMPONENTS
  v = float4(v.xy, 1.0f);
#endif
#ifdef VECTOR_TO_SCALAR
  float sum = v;
#endif
#ifdef ELEMENT_TYPES
  float4 wide = h;
#endif
#ifdef ELEMENT_TYPES_TIMES
  v = v * h;
#endif
#ifdef FRACTION_TO_INTEGERS
  pair = pair * 0.5f;
#endif
#ifdef COMPARED_IS_BOOL
  int4 larger = v > 1.0f;
#endif

#ifdef TERNARY_TO_BFLOAT
  bfloat narrow = n > 0 ? bfloat(x[i]) : 0.0f;
#endif

  // What a simdgroup does.
#ifdef SIMD_OF_BFLOAT
  x[i] = simd_sum(bfloat(x[i]));
#endif
#ifdef SIMD_OF_LONG
  x[i] = float(simd_shuffle(long(n), 1));
#endif
#ifdef SIMD_WITH_MASK
  x[i] = simd_shuffle_down(x[i], 1, 32);
#endif
#ifdef MATRIX_OF_INT
  simdgroup_matrix<int, 8, 8> m;
#endif
#ifdef MATRIX_OF_16
  simdgroup_matrix<float, 16, 8> m;
#endif
#ifdef MATRIX_FROM_THREAD
  simdgroup_float8x8 m;
  float copy[64];
  simdgroup_load(m, copy, 8);
#endif
#ifdef FILLED_BY_FLOAT
  simdgroup_bfloat8x8 m = make_filled_simdgroup_matrix<bfloat, 8>(0.0f);
#endif

#ifdef BITS_OF_STRUCT
  Word w;
  w.bits = i;
  x[i] = as_type<float>(w);
#endif
#ifdef BITS_OF_MORE
  x[i] = as_type<float>(half4(h)).x;
#endif

#ifdef ATOMIC_COPY
  threadgroup atomic_uint copy;
  copy = count[0];
#endif
#ifdef ATOMIC_ORDER
  atomic_store_explicit(count, 1u, memory_order_acquire);
#endif
#ifdef ATOMIC_WORD
  threadgroup uint word;
  atomic_fetch_add_explicit(&word, 1u, memory_order_relaxed);
#endif
#ifdef ATOMIC_MEMBER
  count->store(1u);
#endif

#ifdef NARROWED
  uchar2 bytes = uchar2{n, 1};
#endif
#ifdef FLAGS_AS_INT
  int flags = mem_flags::mem_device;
#endif
  x[i] = v.x + float(h.y) + float(pair.x);
}
