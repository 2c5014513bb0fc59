// csrc/torch/keep_mask.cpp: dropout's random bits on the CPU: Philox4x32-10
// (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011), keyed by the call's seed.  tile/dropout.h draws the same on a GPU.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <vector>

#include "attention/problem.h"
#include "torch/composite.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using Words = std::array<uint32_t, 4>;

Words philox(Words counter, uint32_t key_0, uint32_t key_1) {
  constexpr int kRounds = 10;
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product_0 = kMultiplier0 * counter[0];
    const uint64_t product_1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product_1 >> 32) ^ counter[1] ^ key_0,
               static_cast<uint32_t>(product_1),
               static_cast<uint32_t>(product_0 >> 32) ^ counter[3] ^ key_1,
               static_cast<uint32_t>(product_0)};
    key_0 += kWeyl0;
    key_1 += kWeyl1;
  }
  return counter;
}

// Writes one row, of which the first weight is the whole row's of number
// `first`.  Eight neighboring weights of a lane share a counter: four words of
// two draws.
void keep_row(bool* row,
              int64_t len_kv,
              int64_t first,
              uint64_t seed,
              uint32_t index,
              uint32_t pair,
              uint32_t drop_below) {
  const auto low = static_cast<uint32_t>(seed);
  const auto high = static_cast<uint32_t>(seed >> 32);
  const int64_t end = first + len_kv;
  for (int64_t strip = first / 32 * 32; strip < end; strip += 32) {
    std::array<Words, 4> words;
    for (uint32_t lane = 0; lane < 4; ++lane) {
      const auto group = static_cast<uint32_t>(strip / 8) + lane;
      words[lane] = philox({group, index, pair, 0}, low, high);
    }
    const int64_t last = std::min(strip + 32, end);
    for (int64_t column = std::max(strip, first); column < last; ++column) {
      const auto lane = static_cast<size_t>(column >> 1 & 3);
      const auto draw =
          static_cast<uint32_t>(2 * (column >> 3 & 3) + (column & 1));
      const uint32_t bits = words[lane][draw / 2] >> (16 * (draw % 2)) & 0xFFFF;
      row[column - first] = bits >= drop_below;
    }
  }
}

Tensor keep_mask_cpu(const Tensor& seed,
                     double dropout_p,
                     c10::SymIntArrayRef shape,
                     int64_t first_batch,
                     at::OptionalIntArrayRef part) {
  const auto sizes = C10_AS_INTARRAYREF_SLOW(shape);
  Tensor keep = at::empty(sizes, seed.options().dtype(at::kBool));
  const int64_t batch = sizes[0], heads = sizes[1], len_q = sizes[2],
                len_kv = sizes[3];
  const attention::Part at =
      part ? *part_in("keep_mask", *part) : attention::Part{0, 0, 0, heads};
  const auto number = static_cast<uint64_t>(seed.item<int64_t>());
  const uint32_t drop_below = attention::drop_below(dropout_p);
  bool* row = static_cast<bool*>(keep.data_ptr());
  for (int64_t entry = first_batch; entry < first_batch + batch; ++entry) {
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t pair = entry * at.heads_total + at.head_offset + head;
      for (int64_t index = 0; index < len_q; ++index, row += len_kv) {
        keep_row(row, len_kv, at.k_offset, number,
                 static_cast<uint32_t>(at.q_offset + index),
                 static_cast<uint32_t>(pair), drop_below);
      }
    }
  }
  return keep;
}

Tensor keep_mask_meta(const Tensor& seed,
                      double /*dropout_p*/,
                      c10::SymIntArrayRef shape,
                      int64_t /*first_batch*/,
                      at::OptionalIntArrayRef /*part*/) {
  return at::empty_symint(shape, seed.options().dtype(at::kBool));
}

// The four words of a counter and a key, for the known answers of its authors.
std::vector<int64_t> philox_words(at::IntArrayRef counter,
                                  at::IntArrayRef key) {
  const auto word = [](int64_t number) {
    return static_cast<uint32_t>(number);
  };
  const Words words = philox({word(counter.at(0)), word(counter.at(1)),
                              word(counter.at(2)), word(counter.at(3))},
                             word(key.at(0)), word(key.at(1)));
  return {words.begin(), words.end()};
}

}  // namespace

Tensor keep_mask(const Call& call,
                 c10::SymIntArrayRef shape,
                 int64_t first_batch) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("orchard_ops::keep_mask", "")
          .typed<Tensor(const Tensor&, double, c10::SymIntArrayRef, int64_t,
                        at::OptionalIntArrayRef)>();
  std::vector<int64_t> part;
  if (call.is_partial()) part = part_value(call.settings.part).toIntVector();
  return op.call(call.seed, call.settings.dropout_p, shape, first_batch,
                 call.is_partial() ? at::OptionalIntArrayRef(part)
                                   : at::OptionalIntArrayRef());
}

TORCH_LIBRARY_FRAGMENT(orchard_ops, m) {
  m.def(
      "keep_mask(Tensor seed, float dropout_p, SymInt[4] shape, "
      "int first_batch=0, int[4]? part=None) -> Tensor");
  m.def("philox(int[] counter, int[] key) -> int[]", philox_words);
}

TORCH_LIBRARY_IMPL(orchard_ops, CPU, m) { m.impl("keep_mask", keep_mask_cpu); }

TORCH_LIBRARY_IMPL(orchard_ops, Meta, m) {
  m.impl("keep_mask", keep_mask_meta);
}

}  // namespace orchard::torch_ops
