// csrc/device/sim/python/arguments.cpp: see arguments.h.
#include "device/sim/python/arguments.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>

namespace py = pybind11;

namespace orchard::sim {
namespace {

const ParameterInfo* find(const KernelInfo& kernel, uint32_t index) {
  for (const ParameterInfo& p : kernel.parameters) {
    if (p.kind == "buffer" && p.index == index) return &p;
  }
  return nullptr;
}

// What a message says of one argument.
struct Place {
  const KernelInfo& kernel;
  uint32_t index;
  const ParameterInfo* parameter;

  [[noreturn]] void refuse(const std::string& expected,
                           const std::string& got,
                           const std::string& advice) const {
    std::string text =
        "[" + kernel.name + "] argument " + std::to_string(index);
    if (parameter != nullptr) {
      text += ", '" + parameter->name + "' (" +
              (parameter->is_const && parameter->space == "device" ? "const "
                                                                   : "") +
              parameter->space + " " + type_name(*parameter) +
              (parameter->is_reference ? "&)" : "*)");
    }
    throw Error(ErrorKind::invalid_problem, text + ": expected " + expected +
                                                ", got " + got + "; " + advice);
  }
};

std::string bits(const char* family, uint32_t bytes) {
  return family + std::to_string(8 * bytes);
}

// NumPy's name of a parameter's numbers.
std::string numpy_name(const ParameterInfo& p) {
  switch (p.scalar) {
    case Scalar::boolean:
      return "bool";
    case Scalar::signed_integer:
      return bits("int", p.scalar_bytes);
    case Scalar::unsigned_integer:
      return bits("uint", p.scalar_bytes);
    case Scalar::floating:
      return bits("float", p.scalar_bytes);
    case Scalar::bfloat:
      return "bfloat16, or of its bits as uint16";
    case Scalar::other:
      break;
  }
  return std::to_string(p.element_bytes) + " bytes";
}

// Arrays of uint8 are plain bytes.  A sign is not looked at, as in a cast.
bool fits(const ParameterInfo& p, const py::dtype& type) {
  const char kind = type.kind();
  const auto size = static_cast<uint32_t>(type.itemsize());
  if (kind == 'u' && size == 1) return true;
  switch (p.scalar) {
    case Scalar::boolean:
      return kind == 'b';
    case Scalar::signed_integer:
    case Scalar::unsigned_integer:
      return size == p.scalar_bytes &&
             (kind == 'i' || kind == 'u' || kind == 'b');
    case Scalar::floating:
      return kind == 'f' && size == p.scalar_bytes;
    case Scalar::bfloat:
      return (kind == 'u' && size == 2) ||
             type.attr("name").cast<std::string>() == "bfloat16";
    case Scalar::other:
      break;
  }
  const bool is_record = kind == 'V' && !type.attr("names").is_none();
  return !is_record || p.element_bytes <= 1 || size == p.element_bytes;
}

void check_type(const Place& place, const py::dtype& type) {
  const bool is_native = type.attr("isnative").cast<bool>();
  const auto name = py::str(type).cast<std::string>();
  if (type.kind() == 'O' || !is_native) {
    place.refuse("numbers in this machine's byte order", name, "convert them");
  }
  if (place.parameter == nullptr || fits(*place.parameter, type)) return;
  place.refuse("elements of " + numpy_name(*place.parameter), name,
               "convert with astype(), or pass the bytes as they are with "
               "view(numpy.uint8)");
}

void check_not_written(const Place& place, const std::string& what) {
  if (place.parameter == nullptr || place.parameter->is_const) return;
  place.refuse("a writable array, as the kernel may write there", what,
               "pass a writable array, or declare the parameter const");
}

template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

// To nearest, ties to even.
uint16_t as_bfloat(float value) {
  const auto all = std::bit_cast<uint32_t>(value);
  if (value != value) return static_cast<uint16_t>(all >> 16 | 0x40);
  return static_cast<uint16_t>((all + 0x7fff + (all >> 16 & 1)) >> 16);
}

std::string encode_float(const ParameterInfo& p, const py::object& value) {
  if (p.scalar == Scalar::bfloat) return raw(as_bfloat(value.cast<float>()));
  if (p.scalar_bytes == sizeof(float)) return raw(value.cast<float>());
  const py::object half = py::module_::import("numpy").attr("float16")(value);
  return half.attr("tobytes")().cast<std::string>();
}

std::string encode_integer(const Place& place, const py::object& value) {
  const ParameterInfo& p = *place.parameter;
  const py::object big = py::int_(1) << py::int_(8 * p.scalar_bytes);
  const bool is_signed = p.scalar == Scalar::signed_integer;
  const py::object low = is_signed ? -(big >> py::int_(1)) : py::int_(0);
  const py::object high = low + big - py::int_(1);
  const py::object number = py::int_(value);
  if (number < low || number > high) {
    place.refuse("a number from " + std::string(py::str(low)) + " to " +
                     std::string(py::str(high)),
                 py::str(number), "choose a number that its type holds");
  }
  const auto bytes = (number & (big - py::int_(1)))
                         .attr("to_bytes")(p.scalar_bytes, "little")
                         .cast<std::string>();
  return bytes;
}

// A Python number becomes what the parameter takes.
std::string encode(const Place& place, const py::object& value) {
  const bool is_bool = py::isinstance<py::bool_>(value);
  const bool is_float = py::isinstance<py::float_>(value);
  // Nobody reads it.
  if (place.parameter == nullptr) return raw(uint64_t{0});
  const ParameterInfo& p = *place.parameter;
  const std::string got = (is_bool    ? "the bool "
                           : is_float ? "the float "
                                      : "the int ") +
                          py::str(value).cast<std::string>();
  if (p.scalar == Scalar::other || p.components != 1) {
    place.refuse(std::to_string(p.element_bytes) + " bytes", got,
                 "pass a NumPy array or bytes");
  }
  if (p.scalar == Scalar::boolean) {
    if (!is_bool) place.refuse("a bool", got, "pass True or False");
    return raw(static_cast<uint8_t>(value.cast<bool>()));
  }
  const bool takes_float =
      p.scalar == Scalar::floating || p.scalar == Scalar::bfloat;
  if (takes_float != is_float) {
    place.refuse(
        takes_float ? "a float" : "an int", got,
        takes_float ? "convert it with float()" : "convert it with int()");
  }
  return takes_float ? encode_float(p, value) : encode_integer(place, value);
}

}  // namespace

Arguments::~Arguments() {
  for (Buffer* buffer : buffers_) release(buffer);
}

void Arguments::bind(const std::vector<Given>& values, device::Launch& launch) {
  texts_.reserve(values.size());
  for (const Given& given : values) add(given);
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
    argument.access =
        a.is_written ? device::Access::read_write : device::Access::read;
    argument.view = a.view;
    launch.arguments.push_back(argument);
  }
}

void Arguments::add(const Given& given) {
  const auto& [index, value, offset] = given;
  const Place place{kernel_, index, find(kernel_, index)};
  if (py::isinstance<py::array>(value)) {
    return add_array(index, value.cast<py::array>(), offset);
  }
  const auto type = py::str(py::type::of(value).attr("__name__"));
  check_not_written(place, "a value of type " + type.cast<std::string>());
  if (py::isinstance<py::float_>(value) || py::isinstance<py::int_>(value)) {
    texts_.emplace_back(index, encode(place, value));
  } else if (py::hasattr(value, "dtype") && py::hasattr(value, "tobytes")) {
    check_type(place, value.attr("dtype").cast<py::dtype>());
    texts_.emplace_back(index, value.attr("tobytes")().cast<std::string>());
  } else if (PyObject_CheckBuffer(value.ptr()) != 0) {
    const auto bytes =
        py::reinterpret_steal<py::bytes>(PyBytes_FromObject(value.ptr()));
    if (!bytes) throw py::error_already_set();
    texts_.emplace_back(index, bytes.cast<std::string>());
  } else {
    place.refuse("a NumPy array, a number, bytes or None", type,
                 "convert it with numpy.asarray()");
  }
}

void Arguments::add_array(uint32_t index,
                          const py::array& array,
                          uint64_t offset_bytes) {
  const Place place{kernel_, index, find(kernel_, index)};
  check_type(place, array.dtype());
  if ((array.flags() & py::array::c_style) == 0) {
    place.refuse("a C-contiguous array", "one with other strides",
                 "pass numpy.ascontiguousarray() of it");
  }
  if (!array.writeable()) check_not_written(place, "a read-only array");
  const auto length = static_cast<uint64_t>(array.nbytes());
  if (offset_bytes > length) {
    place.refuse("an offset of at most the " + std::to_string(length) +
                     " bytes of its array",
                 std::to_string(offset_bytes), "offsets are in bytes");
  }
  const auto* begin = static_cast<const std::byte*>(array.data());
  arrays_.push_back({index,
                     place.parameter != nullptr && !place.parameter->is_const,
                     array, begin, begin + length, offset_bytes});
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
      const auto at = static_cast<uint64_t>(a.begin - begin);
      const auto bytes = static_cast<uint64_t>(a.end - a.begin);
      a.view = view(buffer, at + a.offset_bytes, bytes - a.offset_bytes);
      if (bytes == 0) continue;
      std::memcpy(static_cast<std::byte*>(access.data()) + at, a.begin, bytes);
    }
  }
}

void Arguments::copy_out() const {
  for (const Array& a : arrays_) {
    if (!a.is_written || a.begin == a.end) continue;
    const HostAccess access(static_cast<Buffer*>(a.view.handle));
    py::array array = a.array;
    std::memcpy(array.mutable_data(),
                static_cast<const std::byte*>(access.data()) +
                    (a.view.offset_bytes - a.offset_bytes),
                static_cast<size_t>(a.end - a.begin));
  }
}

}  // namespace orchard::sim
