// csrc/device/user_cache.h: what is kept for a user between processes: a folder
// that is private, and small entries that are there as a whole or not at all.
#pragma once

#include <optional>
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

// The text that was kept last under a key, or none.  Error(device) if what is
// there is not whole, or is another's or writable by others.
std::optional<std::string> kept_text(std::string_view key);
// Keeps it in place of the one before; an empty text leaves nothing there.
// Whoever reads meanwhile finds the one or the other, whole.  Error(device)
// says why it cannot be.
void keep_text(std::string_view key, std::string_view text);

// A new private folder of the cache, for files that the user is told of.
std::string make_kept_folder(const std::string& prefix);

// What tells one installation of the operating system from the next.
std::string system_build();

}  // namespace orchard::device
