// tests/metal/runtime/program/check.h: what the program's tests are made of.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "device/device.h"
#include "device/metal/metal.h"
#include "metal.h"

namespace standin {

using namespace orchard;

struct Test {
  const char* name;
  void (*run)();
};
#define TEST(name) {#name, name}

// One list a file; main.cpp joins them.
std::span<const Test> device_tests();
std::span<const Test> launch_tests();
std::span<const Test> stream_tests();

void expect(bool is_true, const std::string& what);
void expect_in(const std::string& text, const std::string& part);

// What an error says; fails if none comes, or another kind.
std::string error_of(ErrorKind kind, const std::function<void()>& run);

class TestSource final : public metal::EncoderSource {
 public:
  void run(const Encode& encode) override {
    const metal::AutoreleaseScope scope;
    encode({stream.command_buffer(), stream.compute_encoder()});
  }
  metal::OpenEncoder commit() override {
    stream.commit();
    return {stream.command_buffer(), stream.compute_encoder()};
  }
  Stream stream;
};

// The test's own stream, and the device that encodes into it.
TestSource& source();
device::Device& gpu();

inline const device::PipelineRequest kProbe{
    "layout_probe.metal", "layout_probe", {}};

}  // namespace standin
