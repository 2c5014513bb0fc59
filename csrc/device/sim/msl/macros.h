// csrc/device/sim/msl/macros.h: what Metal's headers define as macros; seen by
// the preprocessor before the kernel's text.
#undef __linux__
#undef __x86_64__
#undef __aarch64__
#define __METAL__ 1
#ifdef MSL_LANGUAGE
#define __METAL_VERSION__ MSL_LANGUAGE
#else
#define __METAL_VERSION__ 310
#endif
#define __METAL_FAST_MATH__ 1
#define __METAL_PRECISE_MATH__ 0
#define __METAL_MAYBE_FAST_MATH__ __METAL_FAST_MATH__
#define __METAL_MEMORY_SCOPE_THREAD__ 0
#define __METAL_MEMORY_SCOPE_THREADGROUP__ 1
#define __METAL_MEMORY_SCOPE_DEVICE__ 2
#define __METAL_MEMORY_SCOPE_SYSTEM__ 3
#define __METAL_MEMORY_SCOPE_SIMDGROUP__ 4
#define __METAL_IOS__ 0
#define __METAL_MACOS__ 1
#define __HAVE_BFLOAT__ 1
#define __HAVE_SIMDGROUP_MATRIX__ 1
#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_CONST const
#define METAL_INTERNAL static
#define assert(condition) ((void)0)
#define CHAR_BIT 8
#define SCHAR_MAX 127
#define SCHAR_MIN (-127 - 1)
#define UCHAR_MAX 255
#define CHAR_MAX SCHAR_MAX
#define CHAR_MIN SCHAR_MIN
#define SHRT_MAX 32767
#define SHRT_MIN (-32767 - 1)
#define USHRT_MAX 65535
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX 9223372036854775807L
#define LONG_MIN (-9223372036854775807L - 1L)
#define ULONG_MAX 18446744073709551615UL
#define FLT_DIG 6
#define FLT_MANT_DIG 24
#define FLT_MAX_10_EXP 38
#define FLT_MAX_EXP 128
#define FLT_MIN_10_EXP (-37)
#define FLT_MIN_EXP (-125)
#define FLT_RADIX 2
#define FLT_DECIMAL_DIG 9
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#define FP_ILOGB0 INT_MIN
#define FP_ILOGBNAN INT_MIN
#define MAXFLOAT FLT_MAX
#define HUGE_VALF __builtin_inff()
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HALF_DIG 3
#define HALF_MANT_DIG 11
#define HALF_MAX_10_EXP 4
#define HALF_MAX_EXP 16
#define HALF_MIN_10_EXP (-4)
#define HALF_MIN_EXP (-13)
#define HALF_RADIX 2
#define HALF_DECIMAL_DIG 5
#define HALF_MAX 65504.0h
#define HALF_MIN 6.103515625e-05h
#define HALF_EPSILON 9.765625e-04h
#define MAXHALF HALF_MAX
#define HUGE_VALH ((half)__builtin_inff())
#if __HAVE_BFLOAT__
#define BFLT_DIG 2
#define BFLT_MANT_DIG 8
#define BFLT_MAX_10_EXP 38
#define BFLT_MAX_EXP 128
#define BFLT_MIN_10_EXP (-37)
#define BFLT_MIN_EXP (-125)
#define BFLT_RADIX 2
#define BFLT_DECIMAL_DIG 4
#define BFLT_MAX 3.38953139e+38bf
#define BFLT_MIN 1.175494351e-38bf
#define BFLT_EPSILON 7.8125e-03bf
#define MAXBFLOAT BFLT_MAX
#define HUGE_VALBF ((bfloat)__builtin_inff())
#endif
#define M_PI_F 3.14159274101257f
#define M_PI_2_F 1.57079637050629f
#define M_PI_4_F 0.785398185253143f
#define M_1_PI_F 0.31830987334251f
#define M_2_PI_F 0.636619746685f
#define M_2_SQRTPI_F 1.12837922573f
#define M_E_F 2.71828174591064f
#define M_LOG2E_F 1.44269502162933f
#define M_LOG10E_F 0.434294492006302f
#define M_LN2_F 0.69314718246460f
#define M_LN10_F 2.30258512496948f
#define M_SQRT2_F 1.41421353816986f
#define M_SQRT1_2_F 0.707106769084930f
#define M_E_H 2.71828h
#define M_LOG2E_H 1.4427h
#define M_LOG10E_H 0.434294h
#define M_LN2_H 0.693147h
#define M_LN10_H 2.30259h
#define M_PI_H 3.14159h
#define M_PI_2_H 1.5708h
#define M_PI_4_H 0.785398h
#define M_1_PI_H 0.31831h
#define M_2_PI_H 0.63662h
#define M_2_SQRTPI_H 1.12838h
#define M_SQRT2_H 1.41421h
#define M_SQRT1_2_H 0.707107h
#if __HAVE_BFLOAT__
#define M_E_BF 2.71828bf
#define M_LOG2E_BF 1.4427bf
#define M_LOG10E_BF 0.434294bf
#define M_LN2_BF 0.693147bf
#define M_LN10_BF 2.30259bf
#define M_PI_BF 3.14159bf
#define M_PI_2_BF 1.5708bf
#define M_PI_4_BF 0.785398bf
#define M_1_PI_BF 0.31831bf
#define M_2_PI_BF 0.63662bf
#define M_2_SQRTPI_BF 1.12838bf
#define M_SQRT2_BF 1.41421bf
#define M_SQRT1_2_BF 0.707107bf
#endif
