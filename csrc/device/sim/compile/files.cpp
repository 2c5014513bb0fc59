// csrc/device/sim/compile/files.cpp: see files.h.
#include "device/sim/compile/files.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

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

}  // namespace

std::string cache_folder() try {
  return device::cache_folder();
} catch (const Error& error) {
  throw Error(ErrorKind::compile, "simulator: " + error.message());
}

ScratchFolder::ScratchFolder() : path_(cache_folder() + "/build-XXXXXX") {
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
  if (!file) {
    throw Error(ErrorKind::compile, "simulator: cannot write " + path);
  }
}

bool exists(const std::string& path) { return access(path.c_str(), R_OK) == 0; }

Outcome run_program(const std::vector<std::string>& command,
                    const std::string& folder) {
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
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128, read_file(log)};
}

}  // namespace orchard::sim
