// csrc/device/sim/msl/language.h: what Metal's language has besides C++ for
// OpenCL, for the type checker of accept.h; csrc/device/sim/check writes texts
// in these terms.
#pragma once

#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable
#pragma OPENCL EXTENSION __cl_clang_bitfields : enable

#define object_data __local
#define ray_data __private
#define threadgroup_imageblock __local
#define is_function_constant_defined(name) (sizeof(name) > 0)

// Where a kernel's variable of so many bytes lies.
template <unsigned long Bytes>
__local char* msl_threadgroup();

// Names at global scope that Metal reserves: no type, and no other kind either.
#define MSL_RESERVED(name) typedef struct msl_reserved_##name name;
#define MSL_RESERVED_LONG(T)  \
  MSL_RESERVED(T##8)          \
  MSL_RESERVED(T##16)         \
  MSL_RESERVED(packed_##T##8) \
  MSL_RESERVED(packed_##T##16)
#define MSL_RESERVED_ALL(T)   \
  MSL_RESERVED(T##2)          \
  MSL_RESERVED(T##3)          \
  MSL_RESERVED(T##4)          \
  MSL_RESERVED(packed_##T##2) \
  MSL_RESERVED(packed_##T##3) \
  MSL_RESERVED(packed_##T##4) \
  MSL_RESERVED_LONG(T)
MSL_RESERVED(llong)
MSL_RESERVED(ullong)
MSL_RESERVED(quad)
MSL_RESERVED(complex)
MSL_RESERVED(imaginary)
MSL_RESERVED_LONG(bool)
MSL_RESERVED_LONG(char)
MSL_RESERVED_LONG(uchar)
MSL_RESERVED_LONG(short)
MSL_RESERVED_LONG(ushort)
MSL_RESERVED_LONG(int)
MSL_RESERVED_LONG(uint)
MSL_RESERVED_LONG(long)
MSL_RESERVED_LONG(ulong)
MSL_RESERVED_LONG(half)
MSL_RESERVED_LONG(float)
MSL_RESERVED_ALL(llong)
MSL_RESERVED_ALL(ullong)
MSL_RESERVED_ALL(quad)
MSL_RESERVED_ALL(double)
#if MSL_LANGUAGE >= 310
MSL_RESERVED_LONG(bfloat)
#endif
#undef MSL_RESERVED_ALL
#undef MSL_RESERVED_LONG
#undef MSL_RESERVED
