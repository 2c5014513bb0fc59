// csrc/device/sim/compile/files.h: the cache folder, atomic writes, running a
// program.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace orchard::sim {

// ORCHARD_CACHE_DIR, else XDG_CACHE_HOME/orchard-ops, else ~/.cache/…; made
// private to the user, refused when it belongs to another.
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

struct Outcome {
  int status;
  std::string output;  // standard output and error
};
Outcome run_program(const std::vector<std::string>& command,
                    const std::string& folder);

// 128 bits in hexadecimal.
std::string digest(std::string_view text);

}  // namespace orchard::sim
