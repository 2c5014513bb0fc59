// tests/metal/runtime/include/dispatch/dispatch.h: the names that metal-cpp
// and torch_ops use; mps.cpp has the one function.
#pragma once

typedef struct dispatch_queue_s* dispatch_queue_t;
typedef struct dispatch_data_s* dispatch_data_t;
typedef void (*dispatch_function_t)(void*);

extern "C" void dispatch_sync_f(dispatch_queue_t queue,
                                void* context,
                                dispatch_function_t work) noexcept;
