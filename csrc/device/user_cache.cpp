// csrc/device/user_cache.cpp: see user_cache.h.
#include "device/user_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "device/device.h"

namespace orchard::device {
namespace {

namespace fs = std::filesystem;

// In a folder that all users write to.
std::string shared_fallback() {
  return "/tmp/orchard-ops-" + std::to_string(getuid());
}

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
  return shared_fallback();
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

// Folders of entries.
constexpr const char* kVerified = "verified";
constexpr const char* kTuned = "tuned";
constexpr size_t kDigest = 32;

std::string path_of(const std::string& folder, std::string_view key) {
  return cache_folder() + "/" + folder + "/" + digest(key);
}

// None if there is none; Error(device) if it is not a file of this user's
// alone.
std::optional<std::string> read_private(const std::string& path) {
  const File file(
      ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0 && errno == ENOENT) return std::nullopt;
  struct stat status{};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0) {
    refuse("cannot read " + path + ": " + std::strerror(errno));
  }
  constexpr off_t kMost = 1 << 20;
  if (!S_ISREG(status.st_mode) || status.st_uid != ::geteuid() ||
      (status.st_mode & 022) != 0 || status.st_size > kMost) {
    refuse(path + " is not a small file that this user alone can write");
  }
  std::string found(static_cast<size_t>(status.st_size), '\0');
  if (::read(file.get(), found.data(), found.size()) !=
      static_cast<ssize_t>(found.size())) {
    refuse("cannot read all of " + path);
  }
  return found;
}

// Writes an entry in place of the one before.
void replace(const std::string& folder,
             std::string_view key,
             std::string_view text) {
  const std::string in = cache_folder() + "/" + folder;
  const std::string path = path_of(folder, key);
  if (::mkdir(in.c_str(), 0700) != 0 && errno != EEXIST) cannot_write(in);
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

}  // namespace

std::string cache_folder() {
  const std::string path = folder_from_environment();
  std::error_code error;
  const bool is_new = fs::create_directories(path, error);
  if (is_new) chmod(path.c_str(), 0700);
  struct stat info{};
  // Where nobody has named it, anybody may have put a link in its place.
  if (path == shared_fallback() &&
      (lstat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode))) {
    refuse("the cache folder " + path +
           " is no folder of this user's; set ORCHARD_CACHE_DIR");
  }
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
  const std::optional<std::string> found =
      read_private(path_of(kVerified, text));
  return found && *found == text;
} catch (const Error&) {  // no folder, or no entry of ours: keep() says why
  return false;
}

void keep(std::string_view text) { replace(kVerified, text, text); }

// The file holds key and text, and what tells that they are whole.
std::optional<std::string> kept_text(std::string_view key) {
  const std::string path = path_of(kTuned, key);
  const std::optional<std::string> found = read_private(path);
  if (!found) return std::nullopt;
  const size_t size = found->size() - std::min(found->size(), kDigest);
  const std::string_view whole = std::string_view(*found).substr(0, size);
  if (found->substr(size) != digest(whole) ||
      whole.substr(0, key.size()) != key) {
    refuse(path + " is not whole");
  }
  return std::string(whole.substr(key.size()));
}

void keep_text(std::string_view key, std::string_view text) {
  if (text.empty()) {
    const std::string path = path_of(kTuned, key);
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) cannot_write(path);
    return;
  }
  const std::string whole = std::string(key) + std::string(text);
  replace(kTuned, key, whole + digest(whole));
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
