// csrc/device/sim/compile/spelling.cpp: see spelling.h.
#include "device/sim/compile/spelling.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>

#include "device/device.h"

namespace orchard::sim {
namespace {

class Spelling {
 public:
  explicit Spelling(TokenList& tokens) : tokens_(tokens) {}

  void run() {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      number(i);
      if (tokens_.is(i, "=") && tokens_.is(i + 1, "{")) one_component(i);
      if (tokens_.is(i, "union")) named_union(i);
      if (tokens_.is(i, "coherent")) coherent(i);
      if (tokens_.is(i, "<") && i > 0) no_texture(i - 1);
    }
  }

 private:
  // Unsuffixed literals are float; h and bf make half and bfloat.
  void number(size_t i) {
    Token& token = tokens_.at(i);
    if (token.kind != TokenKind::number) return;
    std::string& text = token.text;
    const bool is_hex = text.starts_with("0x") || text.starts_with("0X");
    const bool is_float = is_hex ? text.find_first_of("pP") != text.npos
                                 : text.find_first_of(".eE") != text.npos;
    const char last = text.back();
    if (!is_hex && text.size() > 2 && text.ends_with("bf")) {
      text = "bfloat(" + as_float(text.substr(0, text.size() - 2)) + ")";
    } else if (!is_hex && (last == 'h' || last == 'H')) {
      text = "half(" + as_float(text.substr(0, text.size() - 1)) + ")";
    } else if (is_float && (last == 'l' || last == 'L')) {
      text.back() = 'f';
    } else if (is_float && last != 'f' && last != 'F') {
      text += 'f';
    }
  }

  static std::string as_float(const std::string& digits) {
    return digits.find_first_of(".eE") == digits.npos ? digits + ".0f"
                                                      : digits + "f";
  }

  // float4 v = {1}; sets the others to zero, where float4(1) repeats it.
  void one_component(size_t i) {
    if (i < 2 || !is_vector_name(tokens_.at(i - 2).text)) return;
    const size_t close = tokens_.closing(i + 1);
    if (close == i + 2) return;
    for (size_t k = i + 2; k < close; ++k) {
      if (tokens_.is(k, "(") || tokens_.is(k, "[") || tokens_.is(k, "{"))
        k = tokens_.closing(k);
      if (tokens_.is(k, ",")) return;
    }
    tokens_.at(close).before += ", 0";
  }

  static bool is_vector_name(std::string_view name) {
    for (const char* type : {"float", "half", "bfloat", "int", "uint", "short",
                             "ushort", "char", "uchar", "long", "ulong"}) {
      const std::string_view of = type;
      if (name.size() == of.size() + 1 && name.starts_with(of)) {
        return name.back() >= '2' && name.back() <= '4';
      }
    }
    return false;
  }

  // Vectors here copy themselves, so that a union of some must be told how.
  void named_union(size_t i) {
    if (!tokens_.is_word(i + 1) || !tokens_.is(i + 2, "{")) return;
    const std::string name = tokens_.at(i + 1).text;
    const std::string copies =
        "(const " + name + "& o) { __builtin_memcpy(this, &o, sizeof(o)); ";
    tokens_.at(i + 3).before += name + "() = default; " + name + copies + "} " +
                                name + "& operator=" + copies +
                                "return *this; } ";
  }

  // `coherent` or `coherent(scope)` before a type: memory here always is.
  void coherent(size_t i) {
    const size_t end =
        tokens_.is(i + 1, "(") ? tokens_.closing(i + 1) + 1 : i + 1;
    if (tokens_.is(end, "device") || tokens_.is(end, "volatile") ||
        tokens_.is(end, "const")) {
      tokens_.erase(i, end);
    }
  }

  // What would be a type that nobody knows, many times over.
  void no_texture(size_t i) {
    const std::string& name = tokens_.at(i).text;
    constexpr std::string_view textures[] = {
        "texture1d",    "texture1d_array",    "texture2d", "texture2d_array",
        "texture2d_ms", "texture2d_ms_array", "texture3d", "texture_buffer",
        "texturecube",  "texturecube_array",  "depth2d",   "depth2d_array",
        "depth2d_ms",   "depth2d_ms_array",   "depthcube", "depthcube_array"};
    if (std::find(std::begin(textures), std::end(textures), name) ==
        std::end(textures)) {
      return;
    }
    throw Error(ErrorKind::compile,
                "simulator: expected kernels of buffers, as there are no "
                "textures here, got " +
                    name + " at " + tokens_.place(i) +
                    "; leave it out by a macro");
  }

  TokenList& tokens_;
};

}  // namespace

void rewrite_spelling(TokenList& tokens) { Spelling(tokens).run(); }

}  // namespace orchard::sim
