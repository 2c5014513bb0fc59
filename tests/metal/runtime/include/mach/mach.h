// tests/metal/runtime/include/mach/mach.h: a read that fails instead of
// faulting.
#pragma once

#include <stdint.h>

typedef int kern_return_t;
typedef unsigned mach_port_t;
typedef mach_port_t task_id_token_t;
typedef uintptr_t vm_address_t;
typedef uintptr_t vm_size_t;

#define KERN_SUCCESS 0

extern "C" {
mach_port_t mach_task_self(void);
kern_return_t vm_read_overwrite(mach_port_t task,
                                vm_address_t address,
                                vm_size_t size,
                                vm_address_t data,
                                vm_size_t* size_read);
}
