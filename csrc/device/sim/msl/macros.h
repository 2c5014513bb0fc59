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
#define __METAL_IOS__ 0
#define __METAL_MACOS__ 1
#define __HAVE_BFLOAT__ 1
#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_CONST const
#define METAL_INTERNAL static
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#define HALF_MAX 65504.0h
#define HALF_MIN 6.103515625e-05h
#define HALF_EPSILON 9.765625e-04h
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define MAXFLOAT FLT_MAX
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define SHRT_MAX 32767
#define USHRT_MAX 65535
#define UCHAR_MAX 255
#define CHAR_BIT 8
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
