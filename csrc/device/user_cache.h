// csrc/device/user_cache.h: what is kept for a user between processes: a folder
// that is private, and small entries that are there as a whole or not at all.
#pragma once

#include <string>
#include <string_view>

namespace orchard::device {

// ORCHARD_CACHE_DIR, else XDG_CACHE_HOME/orchard-ops, else ~/.cache/…; made
// private to the user.  Error(device) if it cannot be, or is another's.
std::string cache_folder();

// 128 bits in hexadecimal.
std::string digest(std::string_view text);

// Whether an earlier process has kept this text.  False for whatever is there
// instead: cut short, changed, a link, another user's, or writable by others.
bool is_kept(std::string_view text);
// Keeps it, in a file of its own that others cannot read.  Error(device) says
// why it cannot be.
void keep(std::string_view text);

// A new private folder of the cache, for files that the user is told of.
std::string make_kept_folder(const std::string& prefix);

// What tells one installation of the operating system from the next.
std::string system_build();

}  // namespace orchard::device
