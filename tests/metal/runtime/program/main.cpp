// tests/metal/runtime/program/main.cpp: csrc/device/metal itself, run over the
// stand-in.  One test a process, named on the command line: a process has one
// device, and it is probed once.
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>

#include "program/check.h"

namespace standin {

void expect(bool is_true, const std::string& what) {
  if (!is_true) throw std::logic_error(what);
}

void expect_in(const std::string& text, const std::string& part) {
  expect(text.find(part) != text.npos, "\"" + part + "\" not in: " + text);
}

std::string error_of(ErrorKind kind, const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    expect(error.kind() == kind, std::string("wrong kind: ") + error.what());
    return error.what();
  }
  throw std::logic_error("expected an error, none came");
}

TestSource& source() {
  static TestSource& it = *new TestSource;
  return it;
}

device::Device& gpu() { return metal::system_device(source()); }

namespace {

// Without a name, lists the tests.
int run(const char* wanted) {
  for (const auto& tests : {device_tests(), launch_tests(), stream_tests()}) {
    for (const Test& test : tests) {
      if (wanted == nullptr) {
        std::puts(test.name);
        continue;
      }
      if (std::strcmp(test.name, wanted) != 0) continue;
      try {
        test.run();
        return 0;
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", test.name, error.what());
        return 1;
      }
    }
  }
  return wanted == nullptr ? 0 : 2;
}

}  // namespace
}  // namespace standin

int main(int count, char** arguments) {
  return standin::run(count < 2 ? nullptr : arguments[1]);
}
