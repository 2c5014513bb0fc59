// tests/metal/runtime/program/device_tests.cpp: what a GPU is, and how its
// kernels are compiled.
#include <functional>
#include <thread>
#include <vector>

#include "device/sim/sim.h"
#include "metal.h"
#include "program/check.h"
#include "runtime.h"

namespace standin {
namespace {

using device::StorageMode;

void reads_the_limits_of_the_device() {
  expect(gpu().name() == "Simulated Apple GPU", "name: " + gpu().name());
  const device::Limits& limits = gpu().limits();
  expect(limits.max_threadgroup_bytes == 32768, "threadgroup bytes");
  expect(limits.max_threads_per_threadgroup == 1024, "threads");
  expect(limits.family == device::Family::a && limits.has_bfloat, "family");
}

void tells_families_apart() {
  faults().family = 9;
  expect(gpu().limits().family == device::Family::b, "Apple9 is class b");
}

void refuses_a_gpu_that_is_too_old() {
  faults().family = 6;
  expect_in(error_of(ErrorKind::unsupported, [] { gpu(); }), "M1");
}

void says_that_there_is_no_device() {
  faults().has_device = false;
  expect_in(error_of(ErrorKind::device, [] { gpu(); }), "no Metal device");
  faults().has_device = true;
  gpu();
}

void chooses_language_and_math(int macos,
                               uint32_t language,
                               int64_t mode,
                               int fast) {
  faults().macos = macos;
  apply_faults();
  gpu().pipeline(kProbe);
  const Compilation given = last_compilation();
  expect(given.language_version == language, "language version");
  expect(given.math_mode == mode, "math mode");
  expect(given.is_fast_math == fast, "fast math");
  expect(gpu().limits().has_bfloat == (language > 0x30000), "bfloat");
}
void compiles_for_macos_13() { chooses_language_and_math(13, 0x30000, -1, 0); }
void compiles_for_macos_14() { chooses_language_and_math(14, 0x30001, -1, 0); }
void compiles_for_macos_15() { chooses_language_and_math(15, 0x30002, 0, -1); }
void compiles_for_macos_26() { chooses_language_and_math(26, 0x30002, 0, -1); }

void refuses_macos_12() {
  faults().macos = 12;
  apply_faults();
  expect_in(error_of(ErrorKind::unsupported, [] { gpu(); }), "macOS 13");
}

// A step of making a pipeline fails, says why, and is tried again.
void recovers(bool Faults::* fault, const std::string& words) {
  faults().*fault = false;
  expect_in(error_of(ErrorKind::compile, [] { gpu().pipeline(kProbe); }),
            words);
  faults().*fault = true;
  gpu().pipeline(kProbe);
}
void carries_the_compilers_text() {
  recovers(&Faults::is_compiling, "use of undeclared name");
}
void says_that_a_kernel_is_missing() {
  recovers(&Faults::has_function, "no such kernel");
}
void carries_the_pipelines_text() {
  recovers(&Faults::is_making_pipelines, "internal error");
}

void survives_a_refused_allocation() {
  faults().is_allocating = false;
  expect_in(error_of(ErrorKind::device, [] { gpu().pipeline(kProbe); }),
            "no buffer");
  faults().is_allocating = true;
  gpu().pipeline(kProbe);
}

void refuses_a_foreign_lane_layout() {
  sim::options().has_foreign_layout = true;
  expect_in(error_of(ErrorKind::unsupported, [] { gpu().pipeline(kProbe); }),
            "simdgroup matrix");
}

void finds_the_device_of_a_buffer() {
  void* buffer = new_buffer(64, StorageMode::shared);
  expect(&metal::device_of(buffer, source()) == &gpu(), "two devices");
}

void compiles_once_for_many_threads() {
  gpu();
  std::vector<std::thread> threads;
  std::vector<std::shared_ptr<const device::Pipeline>> made(8);
  for (size_t i = 0; i < made.size(); ++i) {
    threads.emplace_back([&, i] { made[i] = gpu().pipeline(kProbe); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& pipeline : made) expect(pipeline == made[0], "two objects");
  expect(compilations() == 1, "compiled more than once");
}

constexpr Test kTests[] = {
    TEST(reads_the_limits_of_the_device),
    TEST(tells_families_apart),
    TEST(refuses_a_gpu_that_is_too_old),
    TEST(says_that_there_is_no_device),
    TEST(compiles_for_macos_13),
    TEST(compiles_for_macos_14),
    TEST(compiles_for_macos_15),
    TEST(compiles_for_macos_26),
    TEST(refuses_macos_12),
    TEST(carries_the_compilers_text),
    TEST(says_that_a_kernel_is_missing),
    TEST(carries_the_pipelines_text),
    TEST(survives_a_refused_allocation),
    TEST(refuses_a_foreign_lane_layout),
    TEST(finds_the_device_of_a_buffer),
    TEST(compiles_once_for_many_threads),
};

}  // namespace

std::span<const Test> device_tests() { return kTests; }

}  // namespace standin
