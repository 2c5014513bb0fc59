// csrc/device/sim/compile/translate.cpp: rewrites the parts of Metal that are
// not C++; see translate.h.
#include "device/sim/compile/translate.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "device/device.h"
#include "device/sim/compile/constants.h"
#include "device/sim/compile/methods.h"
#include "device/sim/compile/operands.h"
#include "device/sim/compile/spelling.h"
#include "device/sim/compile/token_list.h"

namespace orchard::sim {
namespace {

struct KernelParameter {
  std::string name;
  std::string source;  // C++ type of entry.h that provides it
  bool has_attribute = false;
};

struct KernelText {
  std::string name;      // as the host asks for it
  std::string function;  // C++ expression, qualified
  std::string scope;     // namespaces around it, as in "a::b::"
  std::string head;      // <…> behind `template`; empty for plain kernels
  std::string types;     // its parameters as written, in brackets
  std::string max_threads = "0";
  std::vector<KernelParameter> parameters;
  bool is_template = false;  // the template itself, not an instance
  bool is_chosen_by_type = false;
};

struct Translation {
  std::string body;
  std::vector<KernelText> kernels;
};

class Translator : TokenList {
 public:
  Translator(std::string_view text, const Wanted& wanted)
      : TokenList(text), wanted_(wanted) {}

  Translation run() {
    give_constants(*this, wanted_.constants);
    join_methods(*this);
    if (!wanted_.is_ours) wrap_operands(*this);
    rewrite_spelling(*this);
    for (size_t i = 0; i < size();) i = step(i);
    return {text(), std::move(kernels_)};
  }

 private:
  // Handles what starts at token i; returns the index after it.
  size_t step(size_t i) {
    if (is(i, "namespace")) return enter_namespace(i);
    if (is(i, "{")) {
      scopes_.push_back(std::exchange(pending_scope_, std::nullopt));
      return i + 1;
    }
    if (is(i, "}")) {
      if (!scopes_.empty()) scopes_.pop_back();
      return i + 1;
    }
    if (is(i, "template") && at_namespace_scope()) return template_head(i);
    if (is_attribute(i)) {
      bool is_kernel = false;
      for (Attribute& a : read_attributes(i)) {
        is_kernel = is_kernel || a.name == "kernel";
        pending_.push_back(std::move(a));
      }
      replace(i, closing(i) + 1, is_kernel ? kernel_word() : "");
      return i;
    }
    if (is(i, "kernel")) {
      replace(i, i + 1, kernel_word());
      pending_.push_back({"kernel", ""});
      return i;
    }
    // Texts between quotes lie in no space of their own here.
    if (is(i, "constant") && is(i + 1, "char") && is(i + 2, "*")) {
      at(i).text = "const";
    }
    if (is_space(i) && i > 0 && (is(i - 1, "(") || is(i - 1, ","))) {
      array_parameter(i);
    }
    if (is(i, "threadgroup")) return threadgroup_variable(i);
    if (is(i, ";")) {
      if (is_instantiation_ && has_pending("kernel")) {
        KernelText kernel;  // template decltype(f<T>) f<T>;
        kernel.function = scope() + name_before(i);
        finish(std::move(kernel));
      }
      pending_.clear();
      is_template_ = is_instantiation_ = false;
      if (std::exchange(is_dropped_, false)) {
        erase(instantiation_, i + 1);
        return instantiation_;
      }
      return i + 1;
    }
    const bool is_list =
        is_word(i - 1) || is(i - 1, ">");  // f<(bool)1> has none
    if (is(i, "(") && is_list && has_pending("kernel")) return function(i);
    return i + 1;
  }

  // Only the kernel that is asked for shall become code.
  std::string kernel_word() const {
    return is_instantiation_ ? "" : " inline ";
  }

  size_t enter_namespace(size_t i) {
    std::string name;
    size_t end = i + 1;
    while (end < size() && !is(end, "{") && !is(end, ";") && !is(end, "=")) {
      name += at(end++).text;
    }
    if (is(end, "{")) pending_scope_ = name;
    return is(end, "{") ? end : end + 1;
  }

  bool at_namespace_scope() const {
    return std::all_of(scopes_.begin(), scopes_.end(),
                       [](const auto& scope) { return scope.has_value(); });
  }

  size_t template_head(size_t i) {
    if (!is(i + 1, "<")) {
      is_instantiation_ = true;
      instantiation_ = i;
      return i + 1;
    }
    is_template_ = true;
    const size_t end = skip_angles(i + 1);
    head_ = join(i + 1, end);
    return end;
  }

  bool has_pending(std::string_view name) const {
    return std::any_of(pending_.begin(), pending_.end(),
                       [&](const Attribute& a) { return a.name == name; });
  }

  std::string pending_argument(std::string_view name) const {
    for (const Attribute& a : pending_) {
      if (a.name == name) return a.argument;
    }
    return {};
  }

  // The parameter list of a kernel opens at i.
  size_t function(size_t i) {
    // decltype(f<T>) f<T>; the list follows no name there.
    if (i > 0 && (is(i - 1, "decltype") || is(i - 1, "__attribute__"))) {
      return closing(i) + 1;
    }
    KernelText kernel;
    kernel.function = scope() + name_before(i);
    kernel.parameters = parameters(i);
    for (size_t k = i + 1; k < closing(i); ++k) {
      if (is_space(k) && (is(k - 1, "(") || is(k - 1, ","))) array_parameter(k);
    }
    kernel.types = join(i, closing(i) + 1);
    finish(std::move(kernel));
    return closing(i) + 1;
  }

  void finish(KernelText kernel) {
    const std::string plain = kernel.function.substr(scope().size());
    kernel.name = plain;
    if (has_pending("host_name")) {
      kernel.name = literal(pending_argument("host_name"));
    }
    if (has_pending("max_total_threads_per_threadgroup")) {
      kernel.max_threads =
          pending_argument("max_total_threads_per_threadgroup");
    }
    kernel.scope = scope();
    kernel.is_template = is_template_;
    if (is_template_) kernel.head = head_;
    if (is_instantiation_) take_from_template(kernel);
    if (is_template_) templates_[kernel.function].push_back(kernels_.size());
    is_dropped_ = is_instantiation_ && !wanted_.entry.empty() &&
                  kernel.name != wanted_.entry;
    kernels_.push_back(std::move(kernel));
    pending_.clear();
    is_template_ = is_instantiation_ = false;
  }

  // "a" "b" is "ab".
  static std::string literal(const std::string& quoted) {
    std::string text;
    bool is_inside = false;
    for (const char c : quoted) {
      if (c == '"')
        is_inside = !is_inside;
      else if (is_inside)
        text += c;
    }
    return text;
  }

  // Between the arguments, or parameters, of the outermost angles.
  static int commas(std::string_view text) {
    int count = 0;
    int depth = 0;
    for (const char c : text) {
      if (c == '<' || c == '(') ++depth;
      if (c == '>' || c == ')') --depth;
      if (c == ',' && depth == 1) ++count;
    }
    return count;
  }

  // As in Metal, an instance has its template's attributes, whatever its own
  // are; host_name alone is its own.  What stands on several declarations of
  // the template holds together.
  void take_from_template(KernelText& kernel) {
    const auto found =
        templates_.find(kernel.function.substr(0, kernel.function.find('<')));
    if (found == templates_.end()) return;
    kernel.max_threads = "0";
    kernel.parameters.clear();
    for (const size_t index : found->second) {
      const KernelText& original = kernels_[index];
      // Another template of that name, which takes fewer arguments.
      if (commas(original.head) < commas(kernel.function)) continue;
      kernel.scope = original.scope;
      // Without arguments the parameters' types choose the instance.
      const bool has_arguments = kernel.function.find('<') != std::string::npos;
      if (has_arguments) kernel.head = original.head;
      kernel.is_chosen_by_type = !has_arguments;
      if (original.max_threads != "0") {
        kernel.max_threads = original.max_threads;
      }
      merge(kernel.parameters, original.parameters);
    }
  }

  // Of two declarations of one parameter, what names a place counts.
  static void merge(std::vector<KernelParameter>& into,
                    const std::vector<KernelParameter>& more) {
    into.resize(more.size());
    for (size_t p = 0; p < more.size(); ++p) {
      if (into[p].source.empty() || more[p].has_attribute) into[p] = more[p];
    }
  }

  std::string scope() const {
    std::string text;
    for (const auto& name : scopes_) {
      if (name && !name->empty()) text += *name + "::";
    }
    return text;
  }

  // Function name, qualified as written, with template arguments, that ends
  // before i.
  std::string name_before(size_t i) {
    size_t begin = i;
    if (is(i - 1, ">")) {
      int depth = 0;
      do {
        --begin;
        if (is(begin, ">")) ++depth;
        if (is(begin, "<")) --depth;
      } while (depth > 0 && begin > 0);
    }
    --begin;
    while (begin > 1 && is(begin - 1, "::") && is_word(begin - 2)) begin -= 2;
    std::string name;
    for (size_t k = begin; k < i; ++k) {
      // Words of a type, as in f<unsigned int>, stay apart.
      if (!name.empty() && at(k).kind == TokenKind::word &&
          at(k - 1).kind == TokenKind::word) {
        name += ' ';
      }
      name += at(k).text;
    }
    return name;
  }

  std::vector<KernelParameter> parameters(size_t open) {
    std::vector<KernelParameter> list;
    std::vector<std::string> taken;
    size_t begin = open + 1;
    int angles = 0;
    std::vector<std::vector<Attribute>> attributes(1);
    std::vector<std::string> texts;
    for (size_t k = begin;; ++k) {
      while (is_attribute(k)) {
        for (Attribute& a : take_attributes(k)) {
          attributes.back().push_back(std::move(a));
        }
      }
      if (is(k, "<")) ++angles;
      if (is(k, ">")) --angles;
      const bool is_end = is(k, ")");
      if (is_end || (is(k, ",") && angles == 0)) {
        if (k > begin) texts.push_back(join(begin, k));
        names_.push_back(k > begin ? declared_name(begin, k) : "");
        if (is_end) break;
        begin = k + 1;
        attributes.emplace_back();
      } else if (is(k, "(") || is(k, "[") || is(k, "{")) {
        k = closing(k);
      }
    }
    uint32_t next_buffer = 0;
    uint32_t next_memory = 0;
    const size_t first_name = names_.size() - attributes.size();
    for (size_t p = 0; p < texts.size(); ++p) {
      list.push_back(
          {names_[first_name + p],
           source_of(attributes[p], texts[p], next_buffer, next_memory),
           !attributes[p].empty()});
    }
    return list;
  }

  // The last word before an array bound or the end.
  std::string declared_name(size_t begin, size_t end) {
    std::string name;
    for (size_t k = begin; k < end && !is(k, "["); ++k) {
      if (at(k).kind == TokenKind::word) name = at(k).text;
    }
    return name;
  }

  static std::string source_of(const std::vector<Attribute>& attributes,
                               const std::string& text,
                               uint32_t& next_buffer,
                               uint32_t& next_memory) {
    for (const Attribute& a : attributes) {
      if (a.name == "buffer" || a.name == "threadgroup") {
        const bool is_buffer = a.name == "buffer";
        uint32_t& next = is_buffer ? next_buffer : next_memory;
        if (a.argument.find_first_not_of("0123456789") == std::string::npos) {
          next = static_cast<uint32_t>(std::stoul(a.argument)) + 1;
        }
        return (is_buffer ? "buffer<(" : "group_memory<(") + a.argument + ")>";
      }
      // A gate leaves the place to its order, as no attribute does.
      const bool is_foreign = a.name.find("::") != a.name.npos;
      if (a.name != "maybe_unused" && a.name != "function_constant" &&
          !is_foreign) {
        return a.name;
      }
    }
    const bool is_pointer =
        text.find_first_of("*&") != text.npos || text.find('[') != text.npos;
    if (!is_pointer) return "parameter_without_attribute";
    if (text.find("threadgroup") != text.npos) {
      return "group_memory<" + std::to_string(next_memory++) + ">";
    }
    return "buffer<" + std::to_string(next_buffer++) + ">";
  }

  bool is_space(size_t i) {
    return is(i, "threadgroup") || is(i, "device") || is(i, "constant") ||
           is(i, "const");
  }

  // An array parameter in an address space is a pointer: T name[N][M] becomes
  // T (*name)[M].
  void array_parameter(size_t i) {
    bool has_space = false;
    int angles = 0;
    for (size_t k = i; k < size(); ++k) {
      has_space = has_space || (is_space(k) && !is(k, "const"));
      if (is(k, "<")) ++angles;
      if (is(k, ">")) --angles;
      const bool is_end = is(k, ",") || is(k, ")") || is(k, ";");
      if ((is_end && angles == 0) || is(k, "(") || is(k, "{") || is(k, "=")) {
        return;
      }
      if (!is(k, "[") || is_attribute(k)) continue;
      if (!has_space || at(k - 1).kind != TokenKind::word) return;
      const size_t close = closing(k);
      at(k - 1).text = "(*" + at(k - 1).text + ")";
      erase(k, close + 1);
      return;
    }
  }

  // threadgroup T name[N]; in a body becomes a reference into the arena.
  size_t threadgroup_variable(size_t i) {
    const bool starts = i > 0 && (is(i - 1, ";") || is(i - 1, "{") ||
                                  is(i - 1, "}") || is(i - 1, "volatile"));
    if (!starts || at_namespace_scope()) return i + 1;
    size_t end = i + 1;
    int angles = 0;
    std::vector<size_t> between;
    for (; end < size() && !is(end, ";"); ++end) {
      if (is(end, "<")) ++angles;
      if (is(end, ">")) --angles;
      if (angles == 0 && is(end, ",")) between.push_back(end);
      if (is(end, "=") && angles == 0) {
        // Metal lets it stand there, and nothing says that it does anything.
        const size_t begin = end;
        while (!is(end, ";") && !is(end, ",")) {
          const bool is_list = is(end, "{") || is(end, "(") || is(end, "[");
          end = (is_list ? closing(end) : end) + 1;
        }
        erase(begin, end);
        end = begin - 1;
        continue;
      }
      if (is(end, "*") || is(end, "&") || is(end, "{")) {
        if (angles == 0) return i + 1;
      }
      if (is(end, "(") || is(end, "[")) end = closing(end);
    }
    const size_t name = name_index(i + 1, between.empty() ? end : between[0]);
    if (name <= i + 1) return i + 1;
    const std::string type = join(i + 1, name);
    std::string text;
    between.push_back(end);
    for (size_t begin = name; size_t comma : between) {
      text += declaration(type, at(begin).text, join(begin + 1, comma));
      begin = comma + 1;
    }
    text.pop_back();  // the semicolon at `end` stays
    at(i).text = text;
    erase(i + 1, end);
    return i + 1;
  }

  // The declared name: the last word before the bounds.
  size_t name_index(size_t begin, size_t end) {
    size_t found = begin;
    int angles = 0;
    for (size_t k = begin; k < end && !is(k, "["); ++k) {
      if (is(k, "<")) ++angles;
      if (is(k, ">")) --angles;
      if (angles == 0 && at(k).kind == TokenKind::word) found = k;
    }
    return found;
  }

  std::string declaration(const std::string& type,
                          const std::string& name,
                          const std::string& bounds) {
    const std::string alias = "orchard_type_of_" + name;
    return "typedef " + type + " " + alias + bounds + "; threadgroup " + alias +
           "& " + name + " = *(threadgroup " + alias +
           "*)orchard::sim::entry::local<" + alias + ">(" +
           std::to_string(locals_++) + ");";
  }

  std::vector<std::optional<std::string>> scopes_;  // name of a namespace
  std::optional<std::string> pending_scope_;
  std::vector<Attribute> pending_;
  std::vector<std::string> names_;
  std::vector<KernelText> kernels_;
  std::map<std::string, std::vector<size_t>> templates_;  // in kernels_
  std::string head_;
  bool is_template_ = false;
  bool is_instantiation_ = false;
  size_t instantiation_ = 0;  // where it begins
  bool is_dropped_ = false;
  int locals_ = 0;
  const Wanted& wanted_;
};

// What attributes say, where their names mean what they mean to the kernel: in
// its namespace, for an instance under its template's parameters.
std::string signature(const KernelText& kernel) {
  std::string out;
  if (!kernel.scope.empty()) {
    out +=
        "namespace " + kernel.scope.substr(0, kernel.scope.size() - 2) + " {\n";
  }
  if (!kernel.head.empty()) out += "template " + kernel.head + '\n';
  out += "struct orchard_signature {\n  typedef ";
  const std::string library = " ::orchard::sim::entry::";
  out += library + "Signature<";
  for (size_t p = 0; p < kernel.parameters.size(); ++p) {
    out += (p ? "," : "") + library + kernel.parameters[p].source;
  }
  out += "> type;\n  static constexpr unsigned max_threads = unsigned(" +
         kernel.max_threads + ");\n};\n";
  return kernel.scope.empty() ? out : out + "}\n";
}

std::string table(const KernelText& kernel) {
  std::string said = "::" + kernel.scope + "orchard_signature";
  if (!kernel.head.empty()) {
    const size_t arguments = kernel.function.find('<');
    if (arguments != kernel.function.npos) {
      said += kernel.function.substr(arguments);
    }
  }
  std::string out = "\n#line 1 \"simulator\"\n" + signature(kernel);
  std::string function = "&::" + kernel.function;
  if (kernel.is_chosen_by_type) {
    out += "typedef void (*orchard_kernel_type)" + kernel.types + ";\n";
    function = "static_cast<orchard_kernel_type>(" + function + ")";
  }
  out += "namespace orchard_entry {\ntypedef " + said +
         "::type S;\nextern \"C\" void orchard_thunk"
         "(const orchard::sim::abi::Arguments* a, "
         "const orchard::sim::abi::Thread* t) {\n  S::call(" +
         function + ", a, t);\n}\nconst char* const names[] = {";
  for (const KernelParameter& p : kernel.parameters) {
    out += '"' + p.name + "\", ";
  }
  return out +
         "\"\"};\n}\nextern \"C\" const orchard::sim::abi::Kernel "
         "orchard_kernel = {\"" +
         kernel.name + "\", orchard_entry::orchard_thunk, " + said +
         "::max_threads, " + std::to_string(kernel.parameters.size()) +
         ", orchard_entry::S::table(" + function +
         "), orchard_entry::names};\n";
}

// Counts of unrolling may be macros, which are gone, and change no result.
void forget_counts(std::string& text) {
  constexpr std::string_view pragma = "#pragma unroll";
  for (size_t at = 0; (at = text.find(pragma, at)) != text.npos;) {
    at += pragma.size();
    text.erase(at, std::min(text.find('\n', at), text.size()) - at);
  }
}

// Parts of the prelude that few texts need, and only those pay for.
std::string headers_of(const std::string& body) {
  std::string headers;
  if (body.find("__metal_") != body.npos)
    headers += "#include \"internals.h\"\n";
  for (const char* word : {"tensor_ops", "dextents", "cooperative_tensor"}) {
    if (body.find(word) == body.npos) continue;
    headers += "#include \"tensor_ops.h\"\n";
    break;
  }
  return headers.empty() ? headers : headers + "#line 1\n";
}

}  // namespace

std::vector<std::string> kernel_names(std::string_view preprocessed) {
  std::vector<std::string> names;
  for (const KernelText& kernel : Translator(preprocessed, {}).run().kernels) {
    if (!kernel.is_template) names.push_back(kernel.name);
  }
  return names;
}

std::string translate(std::string_view preprocessed, const Wanted& wanted) {
  Translation found = Translator(preprocessed, wanted).run();
  if (!wanted.is_ours) forget_counts(found.body);
  found.body = headers_of(found.body) + found.body;
  for (const KernelText& kernel : found.kernels) {
    if (!kernel.is_template && kernel.name == wanted.entry) {
      return found.body + table(kernel);
    }
  }
  std::string names;
  for (const KernelText& kernel : found.kernels) {
    if (!kernel.is_template) names += (names.empty() ? "" : ", ") + kernel.name;
  }
  throw Error(ErrorKind::compile, "simulator: no kernel named " + wanted.entry +
                                      " in the text; it has: " + names);
}

}  // namespace orchard::sim
