// csrc/device/sim/compile/files.h: the cache folder, atomic writes, running a
// program.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "device/user_cache.h"

namespace orchard::sim {

// The user's, of device/user_cache.h; Error(compile) if there can be none.
std::string cache_folder();

// A fresh folder inside the cache, removed with its files at the end.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string read_file(const std::string& path);
void write_file(const std::string& path, std::string_view text);
bool exists(const std::string& path);
// Moves a file there as a whole, in place of the one before.
void put_in_place(const std::string& from, const std::string& to);

// Whether it is a file of this user's alone: what others could have put there
// is neither loaded nor compiled.
bool is_own_file(const std::string& path);

struct Outcome {
  int status;
  std::string output;  // standard output and error
};
// Ended with all that it has started after ORCHARD_SIM_TIMEOUT seconds (600
// unless set), and its status is then not 0.
Outcome run_program(const std::vector<std::string>& command,
                    const std::string& folder);

using device::digest;

}  // namespace orchard::sim
