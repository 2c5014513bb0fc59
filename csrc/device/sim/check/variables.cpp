// csrc/device/sim/check/variables.cpp: where variables live; see check.h.
#include <map>

#include "device/sim/check/check.h"
#include "device/sim/check/number.h"

namespace orchard::sim::check {
namespace {

constexpr std::string_view kNoVariables[] = {
    "using",  "namespace", "static_assert", "typedef", "struct",
    "class",  "union",     "enum",          "friend",  "extern",
    "public", "private",   "protected"};
constexpr std::string_view kStatements[] = {
    "return", "if",   "for",   "while",    "do",      "switch", "case",
    "break",  "else", "using", "continue", "default", "typedef"};

// A declaration of variables, or of one member.
struct Declaration {
  bool is_static = false;
  bool has_constant = false;
  bool has_threadgroup = false;
  bool has_other_space = false;
  bool points = false;
  size_t words = 0;
  size_t name = kNowhere;
  size_t end = 0;  // behind the name
};

class Variables {
 public:
  explicit Variables(Unit& unit)
      : unit_(unit), constants_(function_constants(unit)) {}

  void run() {
    for (const Function& f : unit_.functions()) {
      functions_[f.begin] = &f;
      check_parameters(f);
    }
    for (size_t i = 0; i < unit_.size(); ++i) {
      if (!unit_.starts(i) || !unit_.is_word(i)) continue;
      const bool is_function = functions_.contains(unit_.begin(i));
      switch (unit_.scope(i)) {
        case Scope::space:
          if (!is_function) check_outside(i);
          break;
        case Scope::record:
          if (!is_function) check_member(i);
          break;
        case Scope::body:
          check_local(i);
          break;
        default:
          break;
      }
    }
  }

 private:
  // Reads from the first word to the name of the first variable.
  Declaration read(size_t i) {
    Declaration d;
    for (size_t k = i; k < unit_.size(); ++k) {
      if (unit_.is_attribute(k)) {
        k = unit_.closing(k);
      } else if (const size_t end = unit_.skip_call(k); end != k) {
        d.words += unit_.is(k, "decltype");
        k = end - 1;
      } else if (unit_.is(k, "<")) {
        const size_t end = unit_.skip_angles(k);
        if (end >= unit_.size()) return d;
        d.end = end;
        k = end - 1;
      } else if (unit_.is(k, "*") || unit_.is(k, "&")) {
        d.points = true;
      } else if (unit_.is_word(k)) {
        const std::string& word = unit_.at(k).text;
        d.is_static |= word == "static";
        if (is_space(word)) {
          d.has_constant |= word == "constant";
          d.has_threadgroup |= word == "threadgroup" && !d.points;
          d.has_other_space |= word != "constant" && word != "threadgroup" &&
                               word != "thread" && !d.points;
        }
        d.name = k;
        d.end = k + 1;
        ++d.words;
      } else if (!unit_.is(k, "::")) {
        return d;
      }
    }
    return d;
  }

  void check_parameters(const Function& f) {
    if (f.is_kernel) return;
    for (const auto& [begin, end] : f.parameters) {
      const Declaration d = read(begin);
      const bool is_array = d.end < end && unit_.is(d.end, "[");
      const bool is_nested = d.end < end && unit_.is(d.end, "(");
      const bool has_space =
          d.has_constant || d.has_threadgroup || d.has_other_space;
      if (has_space && !d.points && !is_array && !is_nested) {
        unit_.refuse(begin,
                     "parameter may not be qualified with an address space (" +
                         unit_.join(begin, d.end) +
                         "): take a pointer or a reference, or leave the "
                         "space out");
      }
    }
  }

  void check_outside(size_t i) {
    size_t k = i;
    if (unit_.is(k, "template")) {
      if (!unit_.is(k + 1, "<")) return;  // an instance
      k = unit_.skip_angles(k + 1);
    }
    if (k >= unit_.size() || contains(kNoVariables, unit_.at(k).text)) return;
    const Declaration d = read(k);
    if (d.words < 2 || d.name == kNowhere) return;
    // Samplers alone are constants without the word.
    if (unit_.is(d.name - 1, "sampler")) return;
    const bool is_constant = constants_.contains(unit_.at(d.name).text);
    if (!d.has_constant) {
      unit_.refuse(k,
                   "program scope variable must reside in constant address "
                   "space: write constant before the type, or declare it "
                   "in the kernel");
    }
    if (is_constant) function_constant(i, d);
    if (unit_.is(d.name - 1, "::")) defined_again(i, d);
  }

  // A static member's definition outside its class says nothing new.
  void defined_again(size_t i, const Declaration& d) {
    size_t end = d.end;
    while (unit_.is(end, "[")) end = unit_.closing(end) + 1;
    if (!unit_.is(end, ";")) return;
    unit_.rewrite(i, end, "");
  }

  // Its value comes when the pipeline is made: the compiler must not know it.
  void function_constant(size_t i, const Declaration& d) {
    size_t end = d.end;
    const bool is_array = unit_.is(end, "[") && !unit_.is_attribute(end);
    while (unit_.is(end, "[") && !unit_.is_attribute(end)) {
      end = unit_.closing(end) + 1;
    }
    bool is_given = false;
    while (end < unit_.size() && unit_.is_attribute(end)) {
      for (const Attribute& a : unit_.read_attributes(end)) {
        if (a.name != "function_constant") continue;
        is_given = true;
        if (a.argument.empty()) {
          unit_.refuse(d.name,
                       "'function_constant' attribute takes one argument: its "
                       "index, as in [[function_constant(0)]]");
        }
        const auto index = number_of(a.argument);
        if (index && (*index < 0 || *index > 65535)) {
          unit_.refuse(d.name,
                       "'function_constant' attribute parameter is out "
                       "of bounds: must be between 0 and 65535");
        }
      }
      end = unit_.closing(end) + 1;
    }
    if (is_given && (is_array || unit_.declares(unit_.at(d.name - 1).text))) {
      unit_.refuse(d.name,
                   "a function constant is a scalar or a vector: "
                   "declare one for each element or member");
    }
    if (is_given && !unit_.is(end, ";") && !unit_.is(end, ",")) {
      unit_.refuse(d.name,
                   "a function constant has no initial value: leave it "
                   "out, the pipeline gives it");
    }
    // What is computed from one is unknown too.
    for (size_t k = end; k < unit_.size() && !unit_.is(k, ";"); ++k) {
      unit_.rewrite(k, "");
    }
    for (size_t k = i; k < d.name; ++k) {
      if (unit_.is(k, "static") || unit_.is(k, "constexpr"))
        unit_.rewrite(k, "");
      if (unit_.is(k, "constant")) unit_.rewrite(k, "extern constant");
    }
  }

  void check_member(size_t i) {
    if (contains(kNoVariables, unit_.at(i).text)) return;
    const Declaration d = read(i);
    if (!d.is_static || d.has_constant || d.words < 2) return;
    unit_.refuse(i,
                 "static member must reside in constant address space: "
                 "write static constexpr constant");
  }

  void check_local(size_t i) {
    if (contains(kStatements, unit_.at(i).text)) return;
    const Declaration d = read(i);
    if (d.words < 2 || d.name == kNowhere) return;
    if (d.is_static && !d.has_constant) {
      unit_.refuse(i,
                   "variables in function scope cannot be declared static: "
                   "leave static out");
    }
    const bool is_nested =
        unit_.is_pair(d.end, "(", "*") || unit_.is_pair(d.end, "(", "&");
    if (d.points || is_nested) return;
    if (d.has_other_space) {
      unit_.refuse(i,
                   "automatic variable qualified with an address space: "
                   "leave it out, or point into it");
    }
    if (d.has_threadgroup) threadgroup_variable(i, d);
  }

  // Becomes a reference to memory of its size, so that kernels which are
  // templates may have it too.
  void threadgroup_variable(size_t i, const Declaration& d) {
    const Function* f = unit_.function(i);
    if (f == nullptr || !f->is_kernel) {
      unit_.refuse(i,
                   "threadgroup variables are declared in kernels only: "
                   "declare '" +
                       unit_.at(d.name).text + "' there and pass a pointer");
    }
    std::string type;
    for (size_t k = i; k < d.name; ++k) {
      if (const size_t end = unit_.skip_call(k);
          end != k && !unit_.is(k, "decltype")) {
        k = end - 1;
      } else if (!unit_.is(k, "threadgroup") && !unit_.is(k, "static")) {
        type += unit_.at(k).text + " ";
      }
    }
    std::string text;
    size_t k = d.name;
    for (bool is_last = false; !is_last; ++k) {
      const size_t name = k++;
      std::string bounds;
      for (; unit_.is(k, "["); k = unit_.closing(k) + 1) {
        if (unit_.is_attribute(k)) continue;
        bounds += unit_.join(k, unit_.closing(k) + 1);
      }
      // An initial value stays unread.
      while (k < unit_.size() && !unit_.is(k, ",") && !unit_.is(k, ";")) {
        const bool opens =
            unit_.is(k, "(") || unit_.is(k, "{") || unit_.is(k, "[");
        k = opens ? unit_.closing(k) + 1 : k + 1;
      }
      is_last = !unit_.is(k, ",");
      text += declaration(type, unit_.at(name).text, bounds);
      text += limit(*f, name);
    }
    text.pop_back();  // the last semicolon stays
    unit_.rewrite(i, k - 1, text);
  }

  static std::string declaration(const std::string& type,
                                 const std::string& name,
                                 const std::string& bounds) {
    const std::string alias = "msl_type_of_" + name;
    return "typedef " + type + alias + bounds + "; threadgroup " + alias +
           "& " + name + " = *(threadgroup " + alias +
           "*)msl_threadgroup<sizeof(" + alias + ")>();";
  }

  // What a kernel may have, in number and in bytes.
  std::string limit(const Function& f, size_t name) {
    std::vector<size_t>& names = names_[f.begin];
    names.push_back(name);
    size_t taken = 0;
    for (const auto& [begin, end] : f.parameters) {
      taken += read(begin).has_threadgroup;
    }
    std::string sum;
    for (const size_t other : names) {
      // What a block declares is gone behind it.
      if (unit_.closing(unit_.brace(other)) < name) continue;
      ++taken;
      sum += (sum.empty() ? "" : " + ") + std::string("sizeof(msl_type_of_") +
             unit_.at(other).text + ")";
    }
    if (taken > 31) {
      unit_.refuse(name,
                   "no threadgroup locations available: a kernel has at "
                   "most 31 threadgroup variables, put some into one "
                   "array or struct");
    }
    // The library is made with instances that take more, their pipelines are
    // not: whoever makes one learns of it there.
    if (f.is_template) return {};
    return " static_assert(" + sum +
           " <= 32768, \"a kernel has at most 32768 bytes of threadgroup "
           "memory: use smaller tiles\");";
  }

  Unit& unit_;
  std::set<std::string> constants_;
  std::map<size_t, const Function*> functions_;
  std::map<size_t, std::vector<size_t>> names_;  // of each kernel
};

}  // namespace

std::set<std::string> function_constants(Unit& unit) {
  std::set<std::string> names;
  for (size_t i = 0; i < unit.size(); ++i) {
    if (unit.scope(i) != Scope::space || !unit.is(i, "constant")) continue;
    size_t end = i;
    std::string name;
    bool is_one = false;
    for (; end < unit.size() && !unit.is(end, ";") && !unit.is(end, "{");
         ++end) {
      if (unit.is_attribute(end)) {
        for (const Attribute& a : unit.read_attributes(end)) {
          is_one = is_one || a.name == "function_constant";
        }
        end = unit.closing(end);
      } else if (unit.is(end, "=")) {
        for (; !unit.is(end + 1, ";") && end + 1 < unit.size(); ++end) {
          is_one = is_one || names.contains(unit.at(end).text);
        }
        is_one = is_one || names.contains(unit.at(end).text);
      } else if (unit.is_word(end)) {
        name = unit.at(end).text;
      }
    }
    if (is_one) names.insert(name);
    i = end;
  }
  return names;
}

void check_variables(Unit& unit) { Variables(unit).run(); }

}  // namespace orchard::sim::check
