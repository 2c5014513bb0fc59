# Finds PyTorch's headers and libraries as the target orchard::torch.  CMake's own
# find_package(Torch) is avoided: for a CUDA build it demands a CUDA toolkit.

# The environment variable of the same name does the same.
set(ORCHARD_TORCH_WHEEL "" CACHE PATH
    "Folder of an unpacked PyTorch wheel to build for, instead of the interpreter's")
if(SKBUILD AND NOT ORCHARD_TORCH_WHEEL STREQUAL "$ENV{ORCHARD_TORCH_WHEEL}"
   AND ORCHARD_TORCH_WHEEL)
  # The wheel's requirements are written before CMake runs.
  message(FATAL_ERROR "[orchard_ops] to build a wheel for another PyTorch set the "
                      "environment variable ORCHARD_TORCH_WHEEL, not the option")
endif()

execute_process(
  COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/find_torch.py
          ${ORCHARD_TORCH_WHEEL}
  OUTPUT_VARIABLE answer ERROR_VARIABLE problem RESULT_VARIABLE status
  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE)
if(status)
  message(FATAL_ERROR "${problem}")
endif()
list(POP_FRONT answer ORCHARD_TORCH_VERSION torch_major torch_minor torch_abi
     torch_root ORCHARD_TORCH_INCLUDE)
message(STATUS "Building for PyTorch ${ORCHARD_TORCH_VERSION} in ${torch_root}")

add_library(orchard::torch INTERFACE IMPORTED)
target_include_directories(
  orchard::torch INTERFACE ${ORCHARD_TORCH_INCLUDE}
                           ${ORCHARD_TORCH_INCLUDE}/torch/csrc/api/include)
foreach(name torch_cpu c10)
  set(library ${torch_root}/lib/${CMAKE_SHARED_LIBRARY_PREFIX}${name}${CMAKE_SHARED_LIBRARY_SUFFIX})
  if(NOT EXISTS ${library})
    message(FATAL_ERROR "[orchard_ops] PyTorch in ${torch_root} lacks ${library}")
  endif()
  target_link_libraries(orchard::torch INTERFACE ${library})
endforeach()
target_compile_definitions(
  orchard::torch INTERFACE ORCHARD_TORCH_VERSION="${ORCHARD_TORCH_VERSION}"
                           ORCHARD_TORCH_MAJOR=${torch_major}
                           ORCHARD_TORCH_MINOR=${torch_minor})

# Strings cross the boundary between all our libraries and PyTorch's, so all of
# them use PyTorch's std::string.
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  add_compile_definitions(_GLIBCXX_USE_CXX11_ABI=${torch_abi})
endif()
