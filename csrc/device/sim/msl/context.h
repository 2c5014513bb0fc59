// csrc/device/sim/msl/context.h: the running lane's context, from its stack.
#pragma once

namespace orchard::sim::abi {
MSL_INLINE Context* context() {
  uptr sp;
#if defined(MSL_X86)
  asm("mov %%rsp, %0" : "=r"(sp));
#else
  asm("mov %0, sp" : "=r"(sp));
#endif
  return reinterpret_cast<Context*>(sp & ~uptr(arena_bytes - 1));
}
}  // namespace orchard::sim::abi
