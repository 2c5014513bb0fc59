# Finds the headers and libraries of each PyTorch to build for, as the target
# orchard::torch<major>.<minor>; ORCHARD_TORCHES lists them.  CMake's own
# find_package(Torch) is avoided: for a CUDA build it demands a CUDA toolkit.

# The environment variable of the same name does the same, for one folder.
set(ORCHARD_TORCH_WHEEL "" CACHE STRING
    "Folders of unpacked PyTorch wheels to build for, instead of the interpreter's")
if(SKBUILD AND NOT ORCHARD_TORCH_WHEEL STREQUAL "$ENV{ORCHARD_TORCH_WHEEL}"
   AND ORCHARD_TORCH_WHEEL)
  # The wheel's requirements are written before CMake runs.
  message(FATAL_ERROR "[orchard_ops] to build a wheel for another PyTorch set the "
                      "environment variable ORCHARD_TORCH_WHEEL, not the option")
endif()

function(orchard_add_torch wheel)
  execute_process(
    COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/find_torch.py
            ${wheel}
    OUTPUT_VARIABLE answer ERROR_VARIABLE problem RESULT_VARIABLE status
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE)
  if(status)
    message(FATAL_ERROR "${problem}")
  endif()
  list(POP_FRONT answer version major minor abi root include)
  message(STATUS "Building for PyTorch ${version} in ${root}")
  if(DEFINED ORCHARD_TORCH_ABI AND NOT abi STREQUAL ORCHARD_TORCH_ABI)
    message(FATAL_ERROR "[orchard_ops] PyTorch ${version} has another std::string than "
                        "the others (_GLIBCXX_USE_CXX11_ABI=${abi}): build for it alone")
  endif()

  set(target orchard::torch${major}.${minor})
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(
    ${target} INTERFACE ${include} ${include}/torch/csrc/api/include)
  foreach(name torch_cpu c10)
    set(library ${CMAKE_SHARED_LIBRARY_PREFIX}${name}${CMAKE_SHARED_LIBRARY_SUFFIX})
    if(NOT EXISTS ${root}/lib/${library})
      message(FATAL_ERROR "[orchard_ops] PyTorch in ${root} lacks lib/${library}")
    endif()
    target_link_libraries(${target} INTERFACE ${root}/lib/${library})
  endforeach()
  target_compile_definitions(${target} INTERFACE ORCHARD_TORCH_MAJOR=${major}
                                                 ORCHARD_TORCH_MINOR=${minor})

  set(ORCHARD_TORCH_ABI ${abi} PARENT_SCOPE)
  set(ORCHARD_TORCHES ${ORCHARD_TORCHES} ${major}.${minor} PARENT_SCOPE)
  set(ORCHARD_TORCH_INCLUDES ${ORCHARD_TORCH_INCLUDES} ${include} PARENT_SCOPE)
endfunction()

if(ORCHARD_TORCH_WHEEL)
  foreach(wheel ${ORCHARD_TORCH_WHEEL})
    orchard_add_torch(${wheel})
  endforeach()
else()
  orchard_add_torch("")
endif()

# Strings cross the boundary between all our libraries and PyTorch's, so all of
# them use PyTorch's std::string.
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  add_compile_definitions(_GLIBCXX_USE_CXX11_ABI=${ORCHARD_TORCH_ABI})
endif()
