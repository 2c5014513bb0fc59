# A CMake toolchain: builds for Macs with zig's clang, on any machine.
#
# ORCHARD_ZIG is the program, ORCHARD_STUBS a folder with text stubs of the system's
# libraries (proof.py), ORCHARD_MACOS the oldest macOS that the objects are for.

# What CMake tries out reads this file too.
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ORCHARD_ZIG ORCHARD_STUBS ORCHARD_MACOS
                                         CMAKE_CXX_SCAN_FOR_MODULES)
set(CMAKE_CXX_SCAN_FOR_MODULES OFF)  # with a program that zig lacks

set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_PROCESSOR arm64)
set(CMAKE_CXX_COMPILER ${ORCHARD_ZIG} c++)
set(CMAKE_CXX_COMPILER_TARGET aarch64-macos.${ORCHARD_MACOS})

string(JOIN " " CMAKE_CXX_FLAGS_INIT
       # Only what that macOS's libc++ has may be called.
       -U_LIBCPP_HAS_NO_VENDOR_AVAILABILITY_ANNOTATIONS
       -fno-sanitize=undefined
       # No PyTorch needs operator delete with a size, so none proves it.
       -fno-sized-deallocation
       "-isystem${CMAKE_CURRENT_LIST_DIR}/sdk")

# Not zig's own C++ library, which what CMake tries out needs neither.
set(CMAKE_EXE_LINKER_FLAGS_INIT -nostdlib++)

set(CMAKE_USER_MAKE_RULES_OVERRIDE ${CMAKE_CURRENT_LIST_DIR}/zig_rules.cmake)
