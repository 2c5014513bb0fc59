// csrc/device/user_cache.cpp: see user_cache.h.
#include "device/user_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "device/device.h"

namespace orchard::device {
namespace {

namespace fs = std::filesystem;

std::string folder_from_environment() {
  const auto value = [](const char* name) {
    const char* text = std::getenv(name);
    return std::string(text ? text : "");
  };
  if (std::string own = value("ORCHARD_CACHE_DIR"); !own.empty()) return own;
  if (std::string xdg = value("XDG_CACHE_HOME"); !xdg.empty()) {
    return xdg + "/orchard-ops";
  }
  const std::string home = value("HOME");
  if (!home.empty() && home != "/") return home + "/.cache/orchard-ops";
  return "/tmp/orchard-ops-" + std::to_string(getuid());
}

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorKind::device, what);
}

[[noreturn]] void cannot_write(const std::string& path) {
  refuse("cannot write " + path + ": " + std::strerror(errno));
}

// Closed at the end of its scope.
class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {}
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

std::string entries() { return cache_folder() + "/verified"; }

std::string path_of(std::string_view text) {
  return entries() + "/" + digest(text);
}

}  // namespace

std::string cache_folder() {
  const std::string path = folder_from_environment();
  std::error_code error;
  const bool is_new = fs::create_directories(path, error);
  if (is_new) chmod(path.c_str(), 0700);
  struct stat info{};
  if (stat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    refuse("cannot make the cache folder " + path +
           "; set ORCHARD_CACHE_DIR to a folder you can write");
  }
  if (info.st_uid != geteuid()) {
    refuse("the cache folder " + path +
           " belongs to another user; set ORCHARD_CACHE_DIR");
  }
  if ((info.st_mode & 0077) != 0) chmod(path.c_str(), 0700);
  return path;
}

std::string digest(std::string_view text) {
  // Two FNV-1a hashes of different start and direction.
  uint64_t a = 0xcbf29ce484222325u;
  uint64_t b = 0x9e3779b97f4a7c15u;
  for (size_t i = 0; i < text.size(); ++i) {
    a = (a ^ static_cast<unsigned char>(text[i])) * 0x100000001b3u;
    b = (b ^ static_cast<unsigned char>(text[text.size() - 1 - i])) *
        0x100000001b3u;
    b ^= b >> 29;
  }
  char out[33];
  std::snprintf(out, sizeof(out), "%016llx%016llx",
                static_cast<unsigned long long>(a),
                static_cast<unsigned long long>(b));
  return out;
}

bool is_kept(std::string_view text) try {
  const File file(::open(path_of(text).c_str(),
                         O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  struct stat status{};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0 ||
      !S_ISREG(status.st_mode) || status.st_uid != ::geteuid() ||
      (status.st_mode & 022) != 0 ||
      status.st_size != static_cast<off_t>(text.size())) {
    return false;
  }
  std::string found(text.size(), '\0');
  return ::read(file.get(), found.data(), found.size()) ==
             static_cast<ssize_t>(found.size()) &&
         found == text;
} catch (const Error&) {  // no folder: keep() says why
  return false;
}

void keep(std::string_view text) {
  const std::string folder = entries(), path = path_of(text);
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    cannot_write(folder);
  }
  std::string part = path + ".XXXXXX";
  const File file(::mkstemp(part.data()));  // with mode 0600
  if (file.get() < 0) cannot_write(path);
  // Short enough for one call, which writes less of it where a disk is full.
  errno = ENOSPC;
  const ssize_t written = ::write(file.get(), text.data(), text.size());
  if (written == static_cast<ssize_t>(text.size()) &&
      ::rename(part.c_str(), path.c_str()) == 0) {
    return;
  }
  const int reason = errno;
  ::unlink(part.c_str());
  errno = reason;
  cannot_write(path);
}

std::string make_kept_folder(const std::string& prefix) {
  std::string path = cache_folder() + "/" + prefix + "-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) cannot_write(path);
  return path;
}

std::string system_build() {
#ifdef __APPLE__
  char build[64] = {};
  size_t size = sizeof(build) - 1;
  if (::sysctlbyname("kern.osversion", build, &size, nullptr, 0) == 0) {
    return build;
  }
#endif
  struct utsname name{};
  if (::uname(&name) != 0) return "unknown";
  return std::string(name.sysname) + " " + name.release + " " + name.version;
}

}  // namespace orchard::device
