// csrc/device/sim/python/arguments.cpp: see arguments.h.
#include "device/sim/python/arguments.h"

#include <algorithm>
#include <cstring>

namespace py = pybind11;

namespace orchard::sim {
namespace {

template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

// Python numbers become int (or long) and float.
std::string encode(const py::object& value) {
  if (py::isinstance<py::float_>(value)) return raw(value.cast<float>());
  if (py::isinstance<py::int_>(value)) {
    const auto number = value.cast<int64_t>();
    if (number == static_cast<int32_t>(number)) {
      return raw(static_cast<int32_t>(number));
    }
    return raw(number);
  }
  if (py::hasattr(value, "tobytes")) {  // a NumPy scalar
    return value.attr("tobytes")().cast<std::string>();
  }
  return value.cast<py::bytes>().cast<std::string>();
}

}  // namespace

Arguments::~Arguments() {
  for (Buffer* buffer : buffers_) release(buffer);
}

void Arguments::bind(const py::sequence& values, device::Launch& launch) {
  texts_.reserve(values.size());
  for (uint32_t i = 0; i < values.size(); ++i) {
    const py::object value = values[i];
    if (!value.is_none()) add(i, value);
  }
  share_buffers();
  for (const auto& [index, text] : texts_) {
    device::Argument argument;
    argument.index = index;
    argument.bytes =
        std::as_bytes(std::span<const char>(text.data(), text.size()));
    launch.arguments.push_back(argument);
  }
  for (const Array& a : arrays_) {
    device::Argument argument;
    argument.index = a.index;
    argument.access = device::Access::read_write;
    argument.view = a.view;
    launch.arguments.push_back(argument);
  }
}

void Arguments::add(uint32_t index, const py::object& value) {
  if (py::isinstance<py::array>(value)) {
    add_array(index, value.cast<py::array>());
  } else {
    texts_.emplace_back(index, encode(value));
  }
}

void Arguments::add_array(uint32_t index, const py::array& array) {
  if ((array.flags() & py::array::c_style) == 0) {
    throw py::value_error("argument " + std::to_string(index) +
                          ": the array must be C-contiguous");
  }
  const auto* begin = static_cast<const std::byte*>(array.data());
  arrays_.push_back(
      {index, array.writeable(), array, begin, begin + array.nbytes()});
}

// One buffer for each stretch of memory without a gap.
void Arguments::share_buffers() {
  std::vector<Array*> list;
  for (Array& a : arrays_) list.push_back(&a);
  std::sort(list.begin(), list.end(), [](const Array* a, const Array* b) {
    return a->begin != b->begin ? a->begin < b->begin : a->end > b->end;
  });
  for (size_t first = 0; first < list.size();) {
    const std::byte* begin = list[first]->begin;
    const std::byte* end = list[first]->end;
    size_t last = first + 1;
    for (; last < list.size() && list[last]->begin < end; ++last) {
      end = std::max(end, list[last]->end);
    }
    Buffer* buffer = allocate(static_cast<uint64_t>(end - begin),
                              device::StorageMode::shared);
    buffers_.push_back(buffer);
    const HostAccess access(buffer);
    for (; first < last; ++first) {
      Array& a = *list[first];
      const auto offset = static_cast<uint64_t>(a.begin - begin);
      const auto bytes = static_cast<uint64_t>(a.end - a.begin);
      a.view = view(buffer, offset, bytes);
      if (bytes == 0) continue;
      std::memcpy(static_cast<std::byte*>(access.data()) + offset, a.begin,
                  bytes);
    }
  }
}

void Arguments::copy_out() const {
  for (const Array& a : arrays_) {
    if (!a.is_written || a.begin == a.end) continue;
    const HostAccess access(static_cast<Buffer*>(a.view.handle));
    py::array array = a.array;
    std::memcpy(
        array.mutable_data(),
        static_cast<const std::byte*>(access.data()) + a.view.offset_bytes,
        a.view.length_bytes);
  }
}

}  // namespace orchard::sim
