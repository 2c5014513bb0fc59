// tests/simulator/kernels/refused_words.metal: names, statements and
// declarations that Apple's compiler refuses; each macro switches one mistake
// on.
#include <metal_stdlib>
using namespace metal;

struct Params {
  int count;
  float scale;
};

template <class T>
struct Box {
  T value;
  Box(T x) : value(x) {}
};

// Names of keywords.
#ifdef STAGE_AS_PARAMETER
inline float helper(float x, uint fragment) { return x * float(fragment); }
#endif
#ifdef STAGE_AS_FUNCTION
inline float vertex(float x) { return x; }
#endif
#ifdef STAGE_AS_MEMBER
struct Holder {
  float kernel;
};
#endif
#ifdef STAGE_AS_TYPE
struct kernel {
  float x;
};
#endif
#ifdef STAGE_IN_RECORD
struct Holder {
  kernel void run(device float* x [[buffer(0)]]) {}
};
#endif
#ifdef SPACE_AS_PARAMETER
inline float helper(float device) { return 1.0f; }
#endif
#ifdef SPACE_AS_MEMBER
struct Holder {
  float thread;
};
#endif
#ifdef SPACE_AS_ENUMERATOR
enum class Place : uint { host, device };
#endif
#ifdef OPENCL_SPACE
inline float helper(__global float* x) { return x[0]; }
#endif
// Names of the library's, at global scope.
#ifdef RESERVED_STRUCT
struct complex {
  float re, im;
};
#endif
#ifdef RESERVED_FUNCTION
inline float quad(float x) { return 4.0f * x; }
#endif
#ifdef RESERVED_VECTOR
typedef float packed_float8[8];
#endif
#ifdef MACRO_FUNCTION
inline float assert(float x) { return x; }
#endif
#ifdef MACRO_PARAMETER
inline float helper(float M_LN2_F) { return 1.0f; }
#endif
#ifdef CALLED_MAIN
inline float main(float x) { return x; }
#endif
// Declarations.
#ifdef VIRTUAL
struct Holder {
  virtual float value() { return 1.0f; }
};
#endif
#ifdef DERIVED
struct Holder : Params {
  float more;
};
#endif
#ifdef NOEXCEPT
inline float helper(float x) noexcept { return x; }
#endif
#ifdef AUTO_TEMPLATE
template <auto N>
inline int helper() {
  return int(N);
}
#endif
#ifdef DEDUCTION_GUIDE
Box(int) -> Box<float>;
#endif
#ifdef THREAD_LOCAL
thread_local constant int cache = 1;
#endif
#ifdef SPACE_BY_VALUE
inline float helper(device float x) { return x; }
#endif
// Variables outside functions.
#ifdef CONSTEXPR_OUTSIDE
constexpr int rows = 8;
#endif
#ifdef CONST_OUTSIDE
const float table[2] = {1.0f, 2.0f};
#endif
#ifdef TEMPLATE_OUTSIDE
template <class T>
constexpr int rows = int(sizeof(T));
#endif
#ifdef STATIC_MEMBER
struct Holder {
  static constexpr int rows = 8;
};
#endif
#ifdef THREADGROUP_OUTSIDE
threadgroup float tile[32];
#endif
#ifdef FUNCTION_CONSTANT_SPACE
bool has_mask [[function_constant(0)]];
#endif
#ifdef FUNCTION_CONSTANT_ARRAY
constant int sizes[2] [[function_constant(0)]];
#endif
#ifdef FUNCTION_CONSTANT_STRUCT
constant Params params [[function_constant(0)]];
#endif
#ifdef FLEXIBLE_ARRAY
struct Holder {
  int count;
  float values[];
};
#endif
#ifdef DEFAULT_POINTER
template <class T = float*>
struct Holder {
  T value;
};
#endif
#ifdef FUNCTION_CONSTANT_VALUE
constant int rows [[function_constant(0)]] = 8;
#endif
#ifdef FUNCTION_CONSTANT_SIZE
constant int rows [[function_constant(0)]];
#endif

kernel void refused(device float* x [[buffer(0)]],
                    uint i [[thread_position_in_grid]]) {
#ifdef STAGE_AS_LOCAL
  float stitchable = x[i];
#endif
#ifdef SPACE_AS_LOCAL
  uint object_data = i;
#endif
#ifdef KEYWORD_AS_LOCAL
  float delete = x[i];
#endif
#ifdef OPERATOR_AS_LOCAL
  uint bitand = i;
#endif
#ifdef BFLOAT_AS_LOCAL
  float bfloat = x[i];
#endif
#ifdef MACRO_CONSTANT
  float HALF_EPSILON = 1.0f;
#endif
#ifdef MACRO_MINIMUM
  int SHRT_MIN = 1;
#endif
#ifdef MACRO_INFINITY
  const float INFINITY = 1e30f;
#endif
#ifdef RESERVED_VARIABLE
  uint16 wide;
#endif
#ifdef GOTO
  goto end;
#endif
#ifdef LABEL
again:
  x[i] += 1.0f;
#endif
#ifdef ASSEMBLY
  asm("nop");
#endif
#ifdef THROW
  if (x[i] < 0.0f) throw 1;
#endif
#ifdef ALLOCATES
  thread float* more = new float[2];
#endif
#ifdef DYNAMIC_CAST
  thread Params* p = dynamic_cast<thread Params*>(nullptr);
#endif
#ifdef REGISTER
  register int n = 1;
#endif
#ifdef STATIC_LOCAL
  static int n = 1;
#endif
#ifdef DEVICE_LOCAL
  device float y;
#endif
#ifdef USES_DOUBLE
  double wide = 1.0;
#endif
#ifdef LONG_LONG
  unsigned long long n = i;
#endif
#ifdef LONG_DOUBLE
  long double y = x[i];
#endif
#ifdef LAMBDA
  auto twice = [](float y) { return y + y; };
#endif
#ifdef CLASS_DEDUCTION
  Box box(x[i]);
#endif
#ifdef CLASS_DEDUCTION_VALUE
  x[i] = Box{x[i]}.value;
#endif
#ifdef EMPTY_ARRAY
  float none[2 - 2];
#endif
#ifdef FUNCTION_CONSTANT_SIZE
  float values[rows];
#endif
#ifdef SECOND_POINTER
  float y = x[i], *at;
#endif
#ifdef INNER_POINTER
  device float* from = x;
  thread float** at = &from;
#endif
#ifdef AUTO_REFERENCE
  auto& y = x[i];
#endif
#ifdef NAMED_CAST
  x[i] = *static_cast<const float*>(x);
#endif
#ifdef ALIAS_POINTER
  using Row = float*;
#endif
#ifdef CONDITION_POINTER
  if (float* y = nullptr) x[i] = 1.0f;
#endif
#ifdef SECOND_ARGUMENT
  x[i] = float(sizeof(metal::is_same<float, float*>));
#endif
#ifdef ARRAY_REFERENCE
  float values[2] = {x[i], 1.0f};
  float (&both)[2] = values;
#endif
#ifdef THREADGROUP_COUNT
#define FOUR(n) threadgroup float n##0, n##1, n##2, n##3
  FOUR(a);
  FOUR(b);
  FOUR(c);
  FOUR(d);
  FOUR(e);
  FOUR(f);
  FOUR(g);
  FOUR(h);
#endif
#ifdef THREADGROUP_BYTES
  threadgroup float a[4096], b[4096];
  threadgroup float c;
#endif
}
