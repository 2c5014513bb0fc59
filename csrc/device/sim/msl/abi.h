// csrc/device/sim/msl/abi.h: what compiled kernels and the simulator share: the
// running lane's context, the runtime's entry points, kernel descriptors.
// Included by kernels too, so it uses no library header.
#pragma once

namespace orchard::sim::abi {

using u8 = __UINT8_TYPE__;
using u32 = __UINT32_TYPE__;
using i32 = __INT32_TYPE__;
using u64 = __UINT64_TYPE__;
using uptr = __UINTPTR_TYPE__;

inline constexpr u32 lanes = 32;
inline constexpr u32 max_threads = 1024;
inline constexpr u32 max_buffers = 31;
inline constexpr u32 max_threadgroup_slots = 31;
inline constexpr u32 max_locals = 64;
// One arena holds the context and all stacks of a threadgroup; aligned, so that
// a masked stack pointer finds the context.
inline constexpr u64 arena_bytes = u64{1} << 27;
inline constexpr u64 stacks_offset = u64{1} << 20;
// Not a multiple of 4,096: the same variable of 32 lanes falls into 32
// different cache sets.
inline constexpr u64 stack_stride = (u64{1} << 16) + 17 * 64;
inline constexpr u32 log_capacity = 4096;

enum class Op : u32 {
  matrix,
  shuffle,
  reduce,
  vote,
  simdgroup_barrier,
  threadgroup_barrier,
  matrix_memory,
};

enum class Space : u32 { device, constant, threadgroup, thread };

// What numbers a type is made of; other: a struct, or nothing known.
enum class Scalar : u32 {
  other,
  boolean,
  signed_integer,
  unsigned_integer,
  floating,
  bfloat
};

// A matrix multiply done for all lanes by the lane that came first.
struct LogEntry {
  u64 key;
};

struct Counters {
  u64 matrix_multiplies;
  u64 shuffles;
  u64 reductions;
  u64 votes;
  u64 threadgroup_barriers;
  u64 simdgroup_barriers;
  u64 exponentials;
  u64 loads[4];
  u64 stores[4];
  u64 load_bytes[4];
  u64 store_bytes[4];
  u64 uninitialized_reads;
};

struct Context;

struct Runtime {
  // Waits for the simdgroup (threadgroup); true for the lane that came last.
  bool (*sync)(Context*, Op, u64 key, u32 line, u32 flags);
  void (*fail)(Context*, const char* what, u32 line);
  void* (*local)(Context*, u32 id, u64 bytes, u64 alignment);
  // Strict mode: before each access.  Vectors must be aligned to their size.
  void (*access)(Context*,
                 const void* at,
                 u64 bytes,
                 bool is_write,
                 bool is_vector,
                 void* pc);
  // Strict mode: an array has no such element.
  void (*wrong_index)(Context*, u32 line, void* pc);
  float (*exp)(float);
  float (*exp2)(float);
  float (*exp10)(float);
  float (*log)(float);
  float (*log2)(float);
  float (*log10)(float);
  float (*pow)(float, float);
  float (*sin)(float);
  float (*cos)(float);
  float (*tan)(float);
  float (*asin)(float);
  float (*acos)(float);
  float (*atan)(float);
  float (*atan2)(float, float);
  float (*sinh)(float);
  float (*cosh)(float);
  float (*tanh)(float);
  float (*fmod)(float, float);
};

// Of the lane that runs; swapped by the runtime at each switch.
struct Context {
  u32 touched;       // this lane handled matrix elements since the last sync
  u32 log_position;  // multiplies of the log that this lane has passed
  u32 log_length;
  u32 arrived;  // lanes that wait at the simdgroup's current sync
  char* lane_base;
  u64*
      slots;  // of a collective by lane: 32 values, then 32 that were handed on
  const Runtime* runtime;
  u32 lane;
  u32 active;  // bits of the lanes that took part in the last sync
  u32 gone;    // bits of the lanes that have returned from the kernel
  u32 is_eager;
  u32 matrix_order;    // 0 ascending, 1 descending, 2 pairwise
  u32 line;            // of the last collective, for error messages
  u32 simdgroup;       // of the threadgroup
  const u8* lane_map;  // permutation of a foreign layout, or null
  Counters counters;
  LogEntry log[log_capacity];
};

struct Arguments {
  void* buffers[max_buffers];
  void* group_memory[max_threadgroup_slots];
};

struct Thread {
  u32 group[3];
  u32 groups[3];
  u32 local[3];
  u32 threads[3];     // of this threadgroup
  u32 dispatched[3];  // of one that the grid's edge does not cut
  u32 grid[3];        // threads in all
  u32 local_index;
  u32 simdgroup;
  u32 simdgroups;
  u32 dispatched_simdgroups;
  u32 lane;
};

struct Parameter {
  u32 kind;  // 0 buffer, 1 threadgroup memory, 2 attribute
  u32 index;
  u32 space;
  u32 is_const;
  u32 element_bytes;
  u32 alignment;
  u32 is_reference;
  Scalar scalar;
  u32 scalar_bytes;
  u32 components;  // scalars of an element
};

struct Kernel {
  const char* name;
  void (*thunk)(const Arguments*, const Thread*);
  u32 max_threads;  // 0: not declared
  u32 parameter_count;
  const Parameter* parameters;
  const char* const* parameter_names;
};

}  // namespace orchard::sim::abi
