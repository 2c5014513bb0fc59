// csrc/device/sim/compile/files.cpp: see files.h.
#include "device/sim/compile/files.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <thread>

#include "device/device.h"

extern char** environ;

namespace orchard::sim {
namespace {

// Children see zig's caches inside ours: the home may be read-only.
std::vector<std::string> child_environment(const std::string& cache) {
  std::vector<std::string> list;
  bool has_global = false;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    has_global =
        has_global || std::strncmp(*entry, "ZIG_GLOBAL_CACHE_DIR=", 21) == 0;
    list.emplace_back(*entry);
  }
  if (!has_global) {
    list.push_back("ZIG_GLOBAL_CACHE_DIR=" + cache + "/zig");
    list.push_back("ZIG_LOCAL_CACHE_DIR=" + cache + "/zig");
  }
  return list;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

using Seconds = std::chrono::duration<double>;

Seconds time_limit() {
  constexpr double kDefault = 600.0;
  const char* text = std::getenv("ORCHARD_SIM_TIMEOUT");
  if (text == nullptr || *text == '\0') return Seconds(kDefault);
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  if (*end == '\0' && std::isfinite(seconds) && seconds > 0.0) {
    return Seconds(seconds);
  }
  throw Error(ErrorKind::invalid_problem,
              "[simulator] expected ORCHARD_SIM_TIMEOUT to be seconds above 0, "
              "got '" +
                  std::string(text) + "'; unset it for 600");
}

// Waits for a child until a time, and longer from look to look; false if it is
// still running then.
bool ends_before(pid_t child,
                 std::chrono::steady_clock::time_point limit,
                 int& status) {
  using std::chrono::milliseconds;
  milliseconds pause{1};
  while (true) {
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended == child) return true;
    // Somebody else has waited for it, as a handler of SIGCHLD may.
    if (ended < 0 && errno != EINTR) {
      status = 0;
      return true;
    }
    if (std::chrono::steady_clock::now() >= limit) return false;
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, milliseconds(20));
  }
}

// A compiler's driver waits for others of its kind.  They stay in our group,
// so that Ctrl-C reaches them too.
void end_with_children(pid_t process) {
  const std::string id = std::to_string(process);
  std::istringstream children(
      read_file("/proc/" + id + "/task/" + id + "/children"));
  kill(process, SIGKILL);
  for (pid_t child = 0; children >> child;) end_with_children(child);
}

// Scratch folders of processes that were killed; no compiler takes a day.
void forget_abandoned(const std::string& cache) {
  namespace fs = std::filesystem;
  std::error_code error;
  const auto limit = fs::file_time_type::clock::now() - std::chrono::hours(24);
  for (fs::directory_iterator at(cache, error), end; !error && at != end;
       at.increment(error)) {
    std::error_code ignored;
    const std::string name = at->path().filename().string();
    if (name.starts_with("build-") &&
        fs::last_write_time(at->path(), ignored) < limit && !ignored) {
      fs::remove_all(at->path(), ignored);
    }
  }
}

}  // namespace

std::string cache_folder() try {
  return device::cache_folder();
} catch (const Error& error) {
  throw Error(ErrorKind::compile, "simulator: " + error.message());
}

ScratchFolder::ScratchFolder() : path_(cache_folder() + "/build-XXXXXX") {
  static std::once_flag once;
  std::call_once(once, forget_abandoned, cache_folder());
  if (mkdtemp(path_.data()) == nullptr) {
    throw Error(ErrorKind::compile, "simulator: cannot write to " + path_ +
                                        ": " + std::strerror(errno));
  }
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_file(const std::string& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  if (!file || chmod(path.c_str(), 0600) != 0) {
    throw Error(ErrorKind::compile,
                "simulator: cannot write " + path +
                    "; is the disk full? ORCHARD_CACHE_DIR names another");
  }
}

void put_in_place(const std::string& from, const std::string& to) {
  // Nobody else may write what is loaded later, whatever the umask lets them.
  if (chmod(from.c_str(), 0600) == 0 &&
      std::rename(from.c_str(), to.c_str()) == 0) {
    return;
  }
  throw Error(ErrorKind::compile,
              "simulator: cannot write " + to + ": " + std::strerror(errno));
}

bool exists(const std::string& path) { return access(path.c_str(), R_OK) == 0; }

bool is_own_file(const std::string& path) {
  struct stat status{};
  return lstat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
         status.st_uid == geteuid() && (status.st_mode & 022) == 0;
}

Outcome run_program(const std::vector<std::string>& command,
                    const std::string& folder) {
  if (command.empty()) {
    throw Error(ErrorKind::compile,
                "simulator: expected a command that compiles, got none; set "
                "ORCHARD_SIM_CXX to a clang, or unset it");
  }
  const Seconds seconds = time_limit();
  std::vector<std::string> arguments = command;
  std::vector<std::string> environment = child_environment(cache_folder());
  const std::string log = folder + "/output";
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child = 0;
  const int error =
      posix_spawnp(&child, arguments[0].c_str(), &actions, nullptr,
                   pointers(arguments).data(), pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return {127, "cannot run " + arguments[0] + ": " + std::strerror(error)};
  }
  int status = 0;
  const auto limit =
      std::chrono::steady_clock::now() +
      std::chrono::duration_cast<std::chrono::steady_clock::duration>(seconds);
  if (!ends_before(child, limit, status)) {
    end_with_children(child);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    std::ostringstream said;
    said << arguments[0] << " has not ended after " << seconds.count()
         << " seconds; ORCHARD_SIM_TIMEOUT allows more\n"
         << read_file(log);
    return {128, said.str()};
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128, read_file(log)};
}

}  // namespace orchard::sim
