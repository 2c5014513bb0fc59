// csrc/attention/choices.cpp: see choices.h.
#include "attention/choices.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <initializer_list>
#include <limits>

namespace orchard::attention {
namespace {

using device::Device;

constexpr const char* kOperation = "tune";

// The kernels that a tile can be chosen for.  backward_dbias has dq's.
constexpr Kernel kTiled[] = {Kernel::forward, Kernel::decode,
                             Kernel::backward_dkdv, Kernel::backward_dq,
                             Kernel::backward_dq_spilled};

constexpr DType kDTypes[] = {DType::float32, DType::float16, DType::bfloat16};

std::optional<int64_t> number_of(const std::vector<Choices::NumberRow>& rows,
                                 DType dtype,
                                 int64_t head_dim) {
  for (const Choices::NumberRow& row : rows) {
    if (row.dtype == dtype && row.head_dim == head_dim) return row.number;
  }
  return std::nullopt;
}

std::vector<std::string_view> words_of(std::string_view line) {
  line = line.substr(0, line.find('#'));
  std::vector<std::string_view> words;
  for (size_t at = 0; (at = line.find_first_not_of(' ', at)) != line.npos;) {
    const size_t end = std::min(line.find(' ', at), line.size());
    words.push_back(line.substr(at, end - at));
    at = end;
  }
  return words;
}

int64_t number_in(std::string_view word, int64_t least, int64_t most) {
  int64_t number = 0;
  const auto [end, error] =
      std::from_chars(word.data(), word.data() + word.size(), number);
  if (error != std::errc() || end != word.data() + word.size() ||
      number < least || number > most) {
    refuse(kOperation, "expected a number from ", least, " to ", most,
           ", got '", word, "'");
  }
  return number;
}

int64_t head_dim_in(std::string_view word) {
  return number_in(word, 1, kMaxHeadDim);
}

Choices::TileRow tile_row(const std::vector<std::string_view>& words) {
  if (words.size() != 8) refuse(kOperation, "expected seven words after tile");
  const auto count = [&](size_t i) {
    return static_cast<int>(number_in(words[i], 1, 64));
  };
  Choices::TileRow row{kernel_called(words[1]),
                       dtype_called(words[2]),
                       {static_cast<int>(head_dim_in(words[3])), count(4),
                        count(5), count(6), count(7)}};
  const std::string reason =
      reason_against_tile(row.kernel, row.tile.max_head_dim, row.tile);
  if (!reason.empty()) refuse(kOperation, reason);
  return row;
}

Choices::NumberRow number_row(const std::vector<std::string_view>& words,
                              int64_t least) {
  if (words.size() != 4) {
    refuse(kOperation, "expected three words after ", words[0]);
  }
  return {dtype_called(words[1]), head_dim_in(words[2]),
          number_in(words[3], least, std::numeric_limits<int64_t>::max())};
}

// Of PyTorch's own forward, which Python alone asks for.
void check_route(const std::vector<std::string_view>& words) {
  if (words.size() != 8) refuse(kOperation, "expected seven words after route");
  dtype_called(words[1]);
  head_dim_in(words[2]);
  for (size_t i = 4; i < 7; ++i) {
    number_in(words[i], 1, std::numeric_limits<int32_t>::max());
  }
  if ((words[3] != "causal" && words[3] != "dense") ||
      (words[7] != "pytorch" && words[7] != "orchard")) {
    refuse(kOperation, "expected causal or dense, and pytorch or orchard");
  }
}

void add_line(std::string_view line, Choices& choices) {
  const std::vector<std::string_view> words = words_of(line);
  if (words.empty()) return;
  if (words[0] == "tile") {
    choices.tiles.push_back(tile_row(words));
  } else if (words[0] == "scratch") {
    choices.scratch.push_back(number_row(words, 0));
  } else if (words[0] == "threadgroups") {
    choices.threadgroups.push_back(number_row(words, 1));
  } else if (words[0] == "route") {
    check_route(words);
  } else {
    refuse(kOperation, "expected tile, scratch, threadgroups or route, got '",
           words[0], "'");
  }
}

// What backward_dq_spilled reads is written by whole tiles of backward_dkdv.
void check_spilled(device::Family family, const Choices& choices) {
  for (const Choices::TileRow& row : choices.tiles) {
    if (row.kernel != Kernel::backward_dq_spilled) continue;
    const int64_t head_dim = row.tile.max_head_dim;
    const Tile& written = choose_tile({family, &choices}, Kernel::backward_dkdv,
                                      row.dtype, head_dim);
    if (written.rows % row.tile.rows != 0 ||
        written.cols % row.tile.cols != 0) {
      refuse(kOperation,
             "expected the tile of backward_dq_spilled at head_dim ", head_dim,
             " to divide backward_dkdv's of ", written.rows, "x", written.cols,
             " fragments, got ", row.tile.rows, "x", row.tile.cols);
    }
  }
}

// The choices of a device that compiles for a class of GPU; a simulator may be
// told to be another one.  Never freed: launches may still read what another
// has replaced, and that is rare.
struct Held {
  const Device* device;
  device::Family family;
  Choices choices;
  const Held* before;
};

std::atomic<const Held*> newest{nullptr};
thread_local std::optional<Choices> trial;

const Held* held_for(const Device& device) {
  for (const Held* held = newest.load(std::memory_order_acquire);
       held != nullptr; held = held->before) {
    if (held->device == &device && held->family == device.limits().family) {
      return held;
    }
  }
  return nullptr;
}

}  // namespace

const Tile* Choices::tile(Kernel kernel, DType dtype, int64_t head_dim) const {
  if (kernel == Kernel::backward_dbias) kernel = Kernel::backward_dq;
  for (const TileRow& row : tiles) {
    if (row.kernel == kernel && row.dtype == dtype &&
        row.tile.max_head_dim == head_dim) {
      return &row.tile;
    }
  }
  return nullptr;
}

std::optional<int64_t> Choices::scratch_of(DType dtype,
                                           int64_t head_dim) const {
  return number_of(scratch, dtype, head_dim);
}

std::optional<int64_t> Choices::threadgroups_of(DType dtype,
                                                int64_t head_dim) const {
  return number_of(threadgroups, dtype, head_dim);
}

Choices read_choices(device::Family family, std::string_view text) {
  Choices choices;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    try {
      add_line(text.substr(0, end), choices);
    } catch (const Error& error) {
      throw Error(error.kind(),
                  error.message() + " (line " + std::to_string(number) + ")");
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  check_spilled(family, choices);
  return choices;
}

const char* word_of(Kernel kernel) {
  const bool is_tiled = std::find(std::begin(kTiled), std::end(kTiled),
                                  kernel) != std::end(kTiled);
  return is_tiled ? row_of(kernel).name : nullptr;
}

Kernel kernel_called(std::string_view word) {
  for (const Kernel kernel : kTiled) {
    if (word == word_of(kernel)) return kernel;
  }
  refuse(kOperation, "expected a kernel that has tiles, got '", word, "'");
}

DType dtype_called(std::string_view word) {
  for (const DType dtype : kDTypes) {
    if (word == dtype_name(dtype)) return dtype;
  }
  refuse(kOperation, "expected float32, float16 or bfloat16, got '", word, "'");
}

std::string reason_against_tile(Kernel kernel,
                                int64_t head_dim,
                                const Tile& tile) {
  const auto is_one_of = [](int number, std::initializer_list<int> numbers) {
    return std::find(numbers.begin(), numbers.end(), number) != numbers.end();
  };
  if (!is_one_of(tile.rows, {1, 2, 4}) || !is_one_of(tile.cols, {1, 2, 4, 8})) {
    return "expected 1, 2 or 4 rows of fragments and 1, 2, 4 or 8 columns";
  }
  // A lane's two elements of each are bits of a 32-bit mask.
  if (tile.rows * tile.cols > 16) return "expected at most 16 fragments";
  const bool is_decode = kernel == Kernel::decode;
  if (is_decode && tile.rows != 1) return "expected one row of fragments";
  const bool is_alone = is_decode && tile.slices > 1;  // as in decode_tile()
  if (tile.slices > most_slices(head_dim) ||
      tile.simdgroups !=
          (is_alone ? tile.slices : simdgroups_for(tile.slices))) {
    return "expected the simdgroups that go with the slices of head_dim";
  }
  if (exchanged_bytes(kernel, tile) > kMostExchangedBytes) {
    return "expected an exchange that fits threadgroup memory";
  }
  return "";
}

Tables tables_of(const Device& device) {
  const device::Family family = device.limits().family;
  if (trial) return {family, &*trial};
  const Held* held = held_for(device);
  return {family, held == nullptr ? nullptr : &held->choices};
}

bool has_choices(const Device& device) { return held_for(device) != nullptr; }

void set_choices(const Device& device, Choices choices) {
  auto* const held = new Held{&device, device.limits().family,
                              std::move(choices), newest.load()};
  while (!newest.compare_exchange_weak(held->before, held)) {
  }
}

void try_choices(std::optional<Choices> choices) { trial = std::move(choices); }

}  // namespace orchard::attention
