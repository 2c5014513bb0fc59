// csrc/device/sim/check/kernels.cpp: signatures of kernels; see check.h.
#include <array>
#include <map>
#include <optional>
#include <set>

#include "device/sim/check/check.h"
#include "device/sim/check/inputs.h"
#include "device/sim/check/number.h"

namespace orchard::sim::check {
namespace {

constexpr std::string_view kOtherStages[] = {"vertex_id",
                                             "instance_id",
                                             "base_vertex",
                                             "base_instance",
                                             "position",
                                             "front_facing",
                                             "point_coord",
                                             "point_size",
                                             "sample_id",
                                             "sample_mask",
                                             "color",
                                             "primitive_id",
                                             "barycentric_coord",
                                             "amplification_id",
                                             "amplification_count",
                                             "viewport_array_index",
                                             "patch_id",
                                             "position_in_patch",
                                             "clip_distance",
                                             "depth",
                                             "stencil",
                                             "attribute",
                                             "payload",
                                             "meshlet_index",
                                             "distance",
                                             "origin",
                                             "direction",
                                             "min_distance",
                                             "max_distance",
                                             "geometry_id"};
// Library types that a kernel takes by value.
constexpr std::string_view kResources[] = {"texture",
                                           "depth",
                                           "sampler",
                                           "array",
                                           "imageblock",
                                           "command_buffer",
                                           "render_pipeline_state",
                                           "compute_pipeline_state",
                                           "tensor",
                                           "acceleration_structure",
                                           "instance_acceleration_structure",
                                           "primitive_acceleration_structure",
                                           "visible_function_table",
                                           "intersection_function_table"};

// Attributes that say where an argument comes from, besides inputs.
constexpr std::string_view kBindings[] = {"buffer",
                                          "threadgroup",
                                          "texture",
                                          "sampler",
                                          "stage_in",
                                          "imageblock_data",
                                          "pixels_per_tile",
                                          "pixel_position_in_tile",
                                          "render_target_array_index"};
// Words of a parameter that are no part of its type's name.
constexpr std::array<std::string_view, 5> kIgnored = {
    "const", "volatile", "typename", "struct", "restrict"};
constexpr std::pair<std::string_view, std::string_view> kSpellings[] = {
    {"unsigned int", "uint"},
    {"unsigned", "uint"},
    {"uint32_t", "uint"},
    {"unsigned short", "ushort"},
    {"uint16_t", "ushort"}};

struct Slot {
  size_t at;
  std::string index;  // as written
  std::optional<long> number;
  bool depends;  // on a function constant
};

class Signature {
 public:
  using Names = std::map<std::string, std::string>;

  Signature(Unit& unit,
            const Function& f,
            const std::set<std::string>& constants,
            const Names& aliases)
      : unit_(unit),
        f_(f),
        constants_(constants),
        aliases_(aliases),
        inputs_(unit) {}

  void run() {
    check_function();
    for (const auto& [begin, end] : f_.parameters) parameter(begin, end);
    check_slots("buffer", 30);
    check_slots("threadgroup", 30);
    check_slots("texture", 127);
    check_slots("sampler", 15);
    if (!asserts_.empty() && f_.body != kNowhere) {
      unit_.rewrite(f_.body, "{" + asserts_);
    }
  }

 private:
  void check_function() {
    size_t type = f_.name;
    while (type > f_.begin && !unit_.is(type - 1, "void") &&
           unit_.is_word(type - 1) && unit_.is(type, "::")) {
      --type;
    }
    const bool is_void = type > f_.begin && unit_.is(type - 1, "void");
    if (!is_void) unit_.refuse(f_.name, "a kernel returns void");
    if (f_.within == Scope::record) {
      unit_.refuse(f_.name,
                   "a kernel is no member function: declare it outside the "
                   "struct");
    }
  }

  // The parameter's type, without name, attributes and default.
  void parameter(size_t begin, size_t end) {
    if (end == begin + 1 && unit_.is(begin, "void")) return;
    if (unit_.is(begin, ".")) {
      unit_.refuse(begin,
                   "a kernel has a fixed number of arguments: leave out "
                   "the ellipsis");
    }
    Form form;
    std::vector<std::string> words;
    for (size_t k = begin; k < end && !unit_.is(k, "="); ++k) {
      const std::string& word = unit_.at(k).text;
      if (unit_.is_attribute(k)) {
        k = unit_.closing(k);
      } else if (word == "*" || word == "&" || word == "[") {
        form.points = true;
        if (word == "[") k = unit_.closing(k);
      } else if (is_space(word)) {
        if (form.points) continue;  // of the pointer itself
        form.has_space = true;
        form.is_threadgroup |= word.starts_with("threadgroup");
        form.is_bindable |= word == "device" || word == "constant";
      } else if (word == "<" && !words.empty()) {
        const size_t after = unit_.skip_angles(k);
        words.back() += unit_.join(k, after);
        k = after - 1;
      } else if (unit_.is(k - 1, "::") && !words.empty()) {
        words.back() = word;
      } else if (unit_.is_word(k) && !contains(kIgnored, word)) {
        words.push_back(word);
      }
    }
    if (words.size() > 1 && !is_plain_type(words.back())) words.pop_back();
    bind(begin, end, plain(words), form);
  }

  // One name for each of a type's spellings.
  std::string plain(const std::vector<std::string>& words) {
    std::string type;
    for (const std::string& word : words) {
      type += std::string(type.empty() ? "" : " ") + word;
    }
    for (const auto& [spelled, name] : kSpellings) {
      if (type == spelled) return std::string(name);
    }
    if (type.starts_with("vec<") && words.size() == 1) {
      const size_t comma = type.find(',');
      return type.substr(4, comma - 4) + type[type.size() - 2];
    }
    const auto alias = aliases_.find(type);
    return alias == aliases_.end() ? type : alias->second;
  }

  struct Form {
    bool has_space = false;
    bool points = false;
    bool is_threadgroup = false;
    bool is_bindable = false;  // in device or constant memory
  };

  void bind(size_t begin, size_t end, const std::string& type, Form form) {
    const std::vector<Attribute> attributes = unit_.attributes(begin, end);
    bool depends = false;
    const Attribute* input = nullptr;
    for (const Attribute& a : attributes) {
      depends = depends || a.name == "function_constant";
      if (contains(kOtherStages, a.name)) {
        unit_.refuse(begin, "attribute '" + a.name +
                                "' is not an input of a kernel: leave it out");
      }
      if (contains(kBindings, a.name) || Inputs::is_input(a.name)) {
        if (input != nullptr) {
          unit_.refuse(begin, "attributes '" + input->name + "' and '" +
                                  a.name + "' do not go together: keep one");
        }
        input = &a;
      }
    }
    if (input == nullptr) return unbound(begin, type, form, depends);
    const std::string& name = input->name;
    if (name == "buffer" || name == "threadgroup") {
      return bound(begin, *input, type, form, depends);
    }
    if (name == "texture" || name == "sampler") {
      if (is_plain_type(type)) {
        unit_.refuse(begin, "type '" + type + "' is not valid for attribute '" +
                                name + "': take a " + name);
      }
      take_slot(begin, *input, depends);
    }
    if (!Inputs::is_input(name)) return;
    if (form.points || form.has_space) {
      unit_.refuse(begin, "attribute '" + name +
                              "' is passed by value: leave out address space "
                              "and reference");
    }
    // A template's own parameter is known when it is made.
    if (is_plain_type(type) || !f_.is_template)
      inputs_.check(begin, name, type);
  }

  void bound(size_t begin,
             const Attribute& a,
             const std::string& type,
             Form form,
             bool depends) {
    const bool is_buffer = a.name == "buffer";
    if (is_buffer && !form.points && is_library_resource(type)) {
      return take_slot(begin, a, depends);
    }
    if (!form.points) {
      unit_.refuse(begin,
                   "type '" + type + "' is not valid for attribute '" + a.name +
                       "': take a pointer or a reference, as in " +
                       (is_buffer ? "constant " : "threadgroup ") + type + "&");
    }
    const bool is_right = is_buffer ? form.is_bindable : form.is_threadgroup;
    if (!is_right) {
      unit_.refuse(begin, is_buffer
                              ? "a [[buffer]] points to device or constant "
                                "memory: write one of them before the type"
                              : "a [[threadgroup]] argument points to "
                                "threadgroup memory: write threadgroup before "
                                "the type");
    }
    take_slot(begin, a, depends);
  }

  void take_slot(size_t begin, const Attribute& a, bool depends) {
    if (a.argument.empty()) {
      unit_.refuse(begin, "attribute '" + a.name + "' takes one argument: " +
                              "its slot, as in [[" + a.name + "(0)]]");
    }
    slots_[a.name].push_back(
        {begin, a.argument, number_of(a.argument), depends});
  }

  // Metal gives it the first free slot of its kind.
  void unbound(size_t begin, const std::string& type, Form form, bool depends) {
    if (form.points && (form.is_bindable || form.is_threadgroup)) {
      slots_[form.is_threadgroup ? "threadgroup" : "buffer"].push_back(
          {begin, "", std::nullopt, depends});
      return;
    }
    if (form.points) {
      unit_.refuse(begin,
                   "an argument of a kernel points to device, constant "
                   "or threadgroup memory: write one of them before "
                   "the type");
    }
    if (is_resource(type)) return;
    unit_.refuse(begin,
                 "invalid type '" + type +
                     "' for an argument of a kernel: pass it as constant " +
                     type +
                     "& in a buffer, or name its attribute, as "
                     "[[thread_position_in_grid]]");
  }

  bool is_resource(const std::string& type) {
    if (is_plain_type(type)) return false;
    if (f_.is_template && !unit_.declares(type)) return true;  // a parameter
    return is_library_resource(type) || holds_resources(type);
  }

  static bool is_library_resource(const std::string& type) {
    for (const std::string_view resource : kResources) {
      if (type.starts_with(resource)) return true;
    }
    return false;
  }

  // Whether each member of an own struct points, or is a resource.
  bool holds_resources(const std::string& type) {
    for (size_t i = 0; i + 1 < unit_.size(); ++i) {
      if (!unit_.is(i, "struct") || !unit_.is(i + 1, type)) continue;
      size_t open = i + 2;
      while (open < unit_.size() && !unit_.is(open, "{") &&
             !unit_.is(open, ";")) {
        ++open;
      }
      if (!unit_.is(open, "{")) continue;
      const size_t last = unit_.closing(open);
      for (size_t k = open + 1; k < last; ++k) {
        if (!unit_.starts(k)) continue;
        bool points = false;
        size_t end = k;
        for (; end < last && !unit_.is(end, ";"); ++end) {
          points = points || unit_.is(end, "*") || unit_.is(end, "&");
        }
        if (!points && !is_resource(unit_.at(k).text)) return false;
        k = end;
      }
      return true;
    }
    return false;
  }

  bool names_constant(const std::string& text) {
    for (const Token& token : tokenize(text)) {
      if (token.kind == TokenKind::word && constants_.contains(token.text)) {
        return true;
      }
    }
    return false;
  }

  void check_slots(const std::string& kind, long last) {
    const std::vector<Slot>& slots = slots_[kind];
    const std::string limit =
        "'" + kind +
        "' attribute parameter is out of bounds: must be between 0 and " +
        std::to_string(last);
    const auto room = static_cast<size_t>(last) + 1;
    if (slots.size() > room) {
      unit_.refuse(slots[room].at, "a kernel has at most " +
                                       std::to_string(room) + " " + kind +
                                       " arguments: put some into one struct");
    }
    for (size_t s = 0; s < slots.size(); ++s) {
      const Slot& slot = slots[s];
      if (slot.index.empty()) continue;
      if (slot.number && (*slot.number < 0 || *slot.number > last)) {
        unit_.refuse(slot.at, limit);
      }
      if (slot.depends || names_constant(slot.index)) continue;
      if (!slot.number) {
        asserts_ += " static_assert((" + slot.index + ") >= 0 && (" +
                    slot.index + ") <= " + std::to_string(last) + ", \"" +
                    limit + "\");";
      }
      for (size_t other = 0; other < s; ++other) {
        const Slot& before = slots[other];
        if (before.index.empty() || before.depends) continue;
        const bool is_same = before.index == slot.index ||
                             (slot.number && before.number == slot.number);
        if (is_same) {
          unit_.refuse(slot.at, "cannot reserve '" + kind +
                                    "' resource location at index " +
                                    slot.index +
                                    ": it is taken, choose another");
        }
      }
    }
  }

  Unit& unit_;
  const Function& f_;
  const std::set<std::string>& constants_;
  const Names& aliases_;
  std::map<std::string, std::vector<Slot>> slots_;
  Inputs inputs_;
  std::string asserts_;
};

// Kernels are no functions for each other, and have one signature.
void check_calls(Unit& unit) {
  std::map<std::pair<std::string, size_t>, const Function*> kernels;
  std::set<std::string> names;
  for (const Function& f : unit.functions()) {
    if (!f.is_kernel || f.body == kNowhere) continue;
    const std::string& name = unit.at(f.name).text;
    const bool is_new =
        kernels.emplace(std::pair(name, unit.brace(f.name)), &f).second;
    if (!is_new && !f.is_template) {
      unit.refuse(f.name, "kernel '" + name +
                              "' is defined twice: kernels are not overloaded, "
                              "choose another name");
    }
    names.insert(name);
  }
  for (size_t i = 0; i + 1 < unit.size(); ++i) {
    const Function* f = unit.function(i);
    if (f == nullptr || !f->is_kernel) continue;
    const size_t open = unit.is(i + 1, "<") ? unit.skip_angles(i + 1) : i + 1;
    if (!unit.is(open, "(")) continue;
    const bool is_other =
        i > 0 && (unit.is(i - 1, ".") || unit.is(i - 1, "::"));
    // The library's function of that name is meant, and its overloads decide.
    const bool is_library = is_library_function(unit.at(i).text);
    if (names.contains(unit.at(i).text) && !is_other && !is_library) {
      unit.refuse(i, "a kernel cannot call the kernel '" + unit.at(i).text +
                         "': move what both do into a function");
    }
  }
}

}  // namespace

void check_kernels(Unit& unit) {
  const std::set<std::string> constants = function_constants(unit);
  std::map<std::string, std::string> aliases;  // of one word for another
  for (size_t i = 0; i + 4 < unit.size(); ++i) {
    if (unit.is(i, "typedef") && unit.is(i + 3, ";")) {
      aliases[unit.at(i + 2).text] = unit.at(i + 1).text;
    } else if (unit.is(i, "using") && unit.is(i + 2, "=") &&
               unit.is(i + 4, ";")) {
      aliases[unit.at(i + 1).text] = unit.at(i + 3).text;
    }
  }
  for (const Function& f : unit.functions()) {
    if (!f.is_kernel) continue;
    // An instance repeats what its template says, and a template that is only
    // declared may leave out what its definition says.
    if (f.is_instance || (f.is_template && f.body == kNowhere)) continue;
    Signature(unit, f, constants, aliases).run();
  }
  check_calls(unit);
}

}  // namespace orchard::sim::check
