// csrc/torch/trace/launch_log.cpp: log files that can be trusted: opened
// without following links, readable by their owner only, refused if another's.
#include "torch/trace/launch_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <c10/util/Exception.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <sstream>
#include <string>

#include "attention/compiled.h"
#include "torch/bridge.h"

namespace orchard::torch_ops {
namespace {

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' && std::strcmp(value, "0") != 0;
}

std::string path_from(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

void warn_once(const std::string& path, const std::string& reason) {
  static std::mutex mutex;
  static std::string last;
  const std::lock_guard<std::mutex> lock(mutex);
  if (last == path + reason) return;
  last = path + reason;
  TORCH_WARN("orchard_ops does not write its log ", path, ": ", reason,
             "; set ORCHARD_KERNEL_LOG or ORCHARD_TENSOR_LOG to a file of "
             "your own");
}

// A descriptor to append to, or -1 after a warning.
int open_log(const std::string& path) {
  const int file = ::open(
      path.c_str(),
      O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK,
      S_IRUSR | S_IWUSR);
  if (file < 0) {
    warn_once(path,
              errno == ELOOP ? "it is a symbolic link" : std::strerror(errno));
    return -1;
  }
  struct stat status{};
  const char* reason = nullptr;
  if (::fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
    reason = "it is not a regular file";
  } else if (status.st_uid != ::geteuid()) {
    reason = "it belongs to another user";
  } else if (status.st_nlink != 1) {
    reason = "it has other hard links";
  } else if ((status.st_mode & 077) != 0 && ::fchmod(file, 0600) != 0) {
    reason = "others can read it";
  }
  if (reason == nullptr) return file;
  warn_once(path, reason);
  ::close(file);
  return -1;
}

void append(const std::string& path, const std::string& text) {
  const int file = open_log(path);
  if (file < 0) return;
  errno = ENOSPC;  // what a write that is cut short does not say
  // One write a call: lines of several processes do not mix.
  if (::write(file, text.data(), text.size()) !=
      static_cast<ssize_t>(text.size())) {
    warn_once(path, std::strerror(errno));
  }
  ::close(file);
}

// Once for each kernel, however often it is launched.
void warn_of_smaller_tile(const attention::Compiled& kernel) {
  static std::mutex mutex;
  static std::set<std::string> warned;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!warned.insert(kernel.name).second) return;
  }
  TORCH_WARN(
      "orchard_ops runs ", kernel.name,
      ", a smaller and slower tile than it would choose: ", kernel.replaced);
}

}  // namespace

void warn_of_smaller_tiles(const attention::Plan& plan) {
  for (size_t i = 0; i < plan.kernels.size(); ++i) {
    if (!plan.kernels[i]->replaced.empty()) {
      warn_of_smaller_tile(*plan.kernels[i]);
    }
  }
}

void log_call(const char* direction,
              int64_t call,
              const attention::Problem& problem,
              const attention::Plan& plan) {
  if (!is_set("ORCHARD_DEBUG_FLASH_ATN") && !is_set("ORCHARD_DEBUG_FLASHATN")) {
    return;
  }
  std::ostringstream line;
  line << "[flashattn.mm] " << direction << " call=" << call << " q=("
       << problem.batch << ", " << problem.heads_q << ", " << problem.len_q
       << ", " << problem.head_dim << ") k=(" << problem.batch << ", "
       << problem.heads_kv << ", " << problem.len_kv << ", " << problem.head_dim
       << ") v=(" << problem.batch << ", " << problem.heads_kv << ", "
       << problem.len_kv << ", " << problem.head_dim_v
       << ") dtype=" << dtype_name(problem.dtype) << " kernels=";
  for (size_t i = 0; i < plan.kernels.size(); ++i) {
    line << (i == 0 ? "" : ",") << plan.kernels[i]->name;
  }
  line << '\n';
  append(path_from("ORCHARD_KERNEL_LOG", "/tmp/flashattn_kernel_calls.log"),
         line.str());
}

void log_tensors(const char* direction,
                 int64_t call,
                 const attention::Plan& plan,
                 int64_t copies) {
  if (!is_set("ORCHARD_TENSOR_PROFILE")) return;
  std::ostringstream lines;
  for (size_t i = 0; i < plan.launches.size(); ++i) {
    for (const device::Argument& argument : plan.launches[i].arguments) {
      if (!argument.bytes.empty()) continue;
      lines << direction << " call=" << call
            << " kernel=" << plan.kernels[i]->name << " slot=" << argument.index
            << " mode=" << storage_mode_name(argument.view.mode)
            << " bytes=" << argument.view.length_bytes
            << " offset=" << argument.view.offset_bytes << '\n';
    }
  }
  lines << direction << " call=" << call << " copies=" << copies << '\n';
  append(path_from("ORCHARD_TENSOR_LOG", "/tmp/orchard_tensor_profile.log"),
         lines.str());
}

}  // namespace orchard::torch_ops
