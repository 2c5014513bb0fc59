// csrc/torch/trace/recording.cpp: one folder a launch, see docs/recording.md.
#include "torch/trace/recording.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <sstream>

#include "attention/compiled.h"
#include "device/kernel_source.h"
#include "torch/bridge.h"

namespace orchard::torch_ops {
namespace {

using attention::Compiled;
using device::Access;
using device::Argument;
using device::Launch;

// Read before every launch, so without the lock.
std::atomic<bool> is_recording{false};
// One launch at a time: what another thread's kernels write is not this one's.
std::mutex recording_mutex;
std::string recording_folder;
int64_t launches_recorded = 0;

[[noreturn]] void fail(const std::string& path) {
  throw Error(ErrorKind::device,
              "[record] cannot write " + path + ": " + std::strerror(errno));
}

void write_new_file(const std::string& path, const void* data, size_t bytes) {
  const int file =
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
             S_IRUSR | S_IWUSR);
  if (file < 0) fail(path);
  const auto* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(file, at, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      ::close(file);
      fail(path);
    }
    at += written;
    bytes -= static_cast<size_t>(written);
  }
  if (::close(file) != 0) fail(path);
}

// The bytes under a view, by PyTorch's own copy: it waits for the GPU and knows
// how to read memory that the host cannot reach.
at::Tensor bytes_of(const device::BufferView& view, const at::Tensor& like) {
  const at::Tensor alias = at::empty({0}, like.options().dtype(at::kByte));
  c10::TensorImpl* tensor = alias.unsafeGetTensorImpl();
  const uint64_t end = view.offset_bytes + view.length_bytes;
  tensor->set_storage_keep_dtype(
      c10::Storage(c10::Storage::use_byte_size_t{}, end,
                   c10::DataPtr(view.handle, like.device()), nullptr, false));
  tensor->set_storage_offset(static_cast<int64_t>(view.offset_bytes));
  tensor->set_sizes_contiguous(static_cast<int64_t>(view.length_bytes));
  return alias.cpu();
}

class Recorder {
 public:
  Recorder(std::string folder, const at::Tensor& like)
      : folder_(std::move(folder)), like_(like) {}

  void record(device::Device& device,
              const Launch& launch,
              const Compiled& kernel) {
    if (::mkdir(folder_.c_str(), S_IRWXU) != 0) fail(folder_);
    const std::string file = attention::file_of(kernel.specialisation);
    const std::string text = device::kernel_source(
        attention::request_for(kernel.specialisation, file));
    write_new_file(folder_ + "/kernel.metal", text.data(), text.size());
    for (const Argument& argument : launch.arguments) {
      write_argument(argument, "before");
    }
    const std::string json = description(device, launch, kernel);
    write_new_file(folder_ + "/launch.json", json.data(), json.size());
    device.submit({&launch, 1});
    for (const Argument& argument : launch.arguments) {
      if (argument.access != Access::read) write_argument(argument, "after");
    }
  }

 private:
  void write_argument(const Argument& argument, const char* when) const {
    const std::string path =
        folder_ + "/" + std::to_string(argument.index) + "." + when;
    if (!argument.bytes.empty()) {
      write_new_file(path, argument.bytes.data(), argument.bytes.size());
      return;
    }
    const at::Tensor bytes = bytes_of(argument.view, like_);
    write_new_file(path, bytes.data_ptr(), bytes.nbytes());
  }

  static std::string triple(const device::Size3& size) {
    std::ostringstream out;
    out << '[' << size[0] << ", " << size[1] << ", " << size[2] << ']';
    return out.str();
  }

  static const char* name_of(Access access) {
    switch (access) {
      case Access::read:
        return "read";
      case Access::write:
        return "write";
      case Access::read_write:
        break;
    }
    return "read_write";
  }

  static std::string binding(const Argument& argument, const Compiled& kernel) {
    std::ostringstream out;
    out << "  {\"index\": " << argument.index;
    if (!argument.bytes.empty()) {
      out << R"(, "kind": "bytes", "access": "read", "length": )"
          << argument.bytes.size() << '}';
      return out.str();
    }
    const char* type =
        attention::element_type(kernel.specialisation, argument.index);
    out << R"(, "kind": "buffer", "access": ")" << name_of(argument.access)
        << R"(", "type": ")" << type << R"(", "mode": ")"
        << storage_mode_name(argument.view.mode) << R"(", "offset": )"
        << argument.view.offset_bytes
        << ", \"length\": " << argument.view.length_bytes << '}';
    return out.str();
  }

  // No name holds a quote or a backslash: nothing to escape.
  static std::string description(const device::Device& device,
                                 const Launch& launch,
                                 const Compiled& kernel) {
    std::ostringstream out;
    out << "{\n \"format\": 1,\n \"device\": \"" << device.name()
        << "\",\n \"kernel\": \"" << kernel.name << "\",\n \"entry\": \""
        << attention::entry_of(kernel.specialisation)
        << "\",\n \"threadgroups\": " << triple(launch.threadgroups)
        << ",\n \"threads_per_threadgroup\": "
        << triple(launch.threads_per_threadgroup)
        << ",\n \"threadgroup_bytes\": " << launch.threadgroup_bytes
        << ",\n \"bindings\": [";
    const char* before = "\n";
    for (const Argument& argument : launch.arguments) {
      out << before << binding(argument, kernel);
      before = ",\n";
    }
    out << "\n ]\n}\n";
    return out.str();
  }

  std::string folder_;
  const at::Tensor& like_;
};

}  // namespace

void record_into(const std::string& folder) {
  const std::lock_guard<std::mutex> lock(recording_mutex);
  if (!folder.empty() && is_recording) {
    throw Error(ErrorKind::device,
                "[record] expected no other recording, but one goes on in " +
                    recording_folder + ": leave its block first");
  }
  recording_folder = folder;
  launches_recorded = 0;
  is_recording = !folder.empty();
}

bool submit_recorded(device::Device& device,
                     const at::Tensor& like,
                     const attention::Plan& plan) {
  if (!is_recording) return false;
  const std::lock_guard<std::mutex> lock(recording_mutex);
  if (!is_recording) return false;  // stopped meanwhile
  record_plan(recording_folder, launches_recorded, device, like, plan);
  return true;
}

void record_plan(const std::string& folder,
                 int64_t& count,
                 device::Device& device,
                 const at::Tensor& like,
                 const attention::Plan& plan) {
  for (size_t i = 0; i < plan.launches.size(); ++i) {
    const std::string number = std::to_string(++count);
    const std::string name =
        std::string(number.size() < 6 ? 6 - number.size() : 0, '0') + number +
        "-" + attention::entry_of(plan.kernels[i]->specialisation);
    Recorder(folder + "/" + name, like)
        .record(device, plan.launches[i], *plan.kernels[i]);
  }
}

}  // namespace orchard::torch_ops
