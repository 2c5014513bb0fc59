// csrc/attention/kernels.h: the tables of kernels, of what their texts can have
// and of their buffers.  Whoever plans, compiles, lists, counts or reports
// kernels reads them here.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>

#include "attention/problem.h"
#include "kernels/params.h"

namespace orchard::attention {

struct Tile;  // of attention/tiles.h

enum class Kernel : uint8_t {
  forward,
  backward_prepare,
  backward_dkdv,
  backward_dq,
  backward_dq_spilled,
  backward_dbias,
  backward_dbias_spilled,
  decode,
  combine
};

// What a kernel's text has or leaves out.
enum class Feature : uint8_t {
  window,
  mask,
  slopes,
  softcap,
  sinks,
  dropout,
  grad_lse,
  packed,
  decode,
  paged,
  left_pads,
  cache_rows,
  partial,   // rows and columns are some of a whole's, results float32
  spilling,  // dk and dv's kernel keeps the gradients of the scores
  summed,    // ... of some columns at a time: dq adds up between launches
  carried,   // a walk is cut: its sums go on from a launch to the next
  wide       // a head of a tensor reaches beyond 31 bits
};

// A set of features, or of buffer slots (kernels/params.h): below 32, all.
template <class T>
class Set {
 public:
  constexpr Set() = default;
  constexpr Set(std::initializer_list<T> members) {
    for (const T member : members) bits_ |= bit(member);
  }

  constexpr bool has(T member) const { return (bits_ & bit(member)) != 0; }
  constexpr void add(Set more) { bits_ |= more.bits_; }
  constexpr void remove(T member) { bits_ &= ~bit(member); }
  constexpr uint32_t bits() const { return bits_; }
  bool operator==(const Set&) const = default;

 private:
  static constexpr uint32_t bit(T member) {
    return uint32_t{1} << static_cast<uint32_t>(member);
  }
  uint32_t bits_ = 0;
};

// A slot may be in both.
struct Slots {
  Set<uint32_t> read;
  Set<uint32_t> written;

  constexpr bool has(uint32_t slot) const {
    return read.has(slot) || written.has(slot);
  }
};

struct FeatureRow {
  Feature feature;
  const char* define;             // 1 in the text of a kernel that has it
  const char* suffix;             // of a specialisation's name
  bool (*is_of)(const Problem&);  // null: the launch plan says
  Slots slots;                    // besides the kernel's own
};

enum class TileTable : uint8_t {  // of attention/tiles.cpp
  forward,
  backward_dkdv,
  backward_dq,
  backward_dq_spilled,
  decode,   // of at most 8 rows
  row_each  // a simdgroup a row, or an 8x8 fragment: no slices of head_dim
};

struct KernelRow {
  Kernel kernel;
  const char* name;  // of its function; its text is kernels/<name>.metal
  Set<Feature> features;
  Slots slots;  // whatever its features; besides, the parameters
  TileTable tiles;
  bool has_head_dim;  // whether its text depends on that of q and k
  bool has_head_dim_v;
  device::Size3 (*grid)(const Tile&, const Problem&);

  // Those of a text with some features, or with all that there can be.
  Slots slots_with(Set<Feature> present) const;
  Slots all_slots() const { return slots_with(features); }
};

// A buffer of a kernel, or the bytes that it gets instead.
struct SlotRow {
  enum class Type : uint8_t { element, mask, float32, int32, bytes };

  constexpr SlotRow(uint32_t slot, const char* name)
      : slot(slot), name(name), type(Type::bytes) {}
  constexpr SlotRow(uint32_t slot,
                    const char* name,
                    Type type,
                    Layout Tensors::* layout)
      : slot(slot), name(name), type(type), layout(layout) {}
  constexpr SlotRow(uint32_t slot,
                    const char* name,
                    Type type,
                    device::BufferView Tensors::* view)
      : slot(slot), name(name), type(type), view(view) {}

  const device::BufferView& view_of(const Tensors& tensors) const {
    return layout != nullptr ? (tensors.*layout).view : tensors.*view;
  }

  uint32_t slot;
  const char* name;
  Type type;
  Layout Tensors::* layout = nullptr;
  device::BufferView Tensors::* view = nullptr;
};

std::span<const KernelRow> kernel_rows();
const KernelRow& row_of(Kernel kernel);
std::span<const FeatureRow> feature_rows();
std::span<const SlotRow> slot_rows();  // by slot

}  // namespace orchard::attention
