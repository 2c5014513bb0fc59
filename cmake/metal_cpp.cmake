# Finds Apple's metal-cpp headers as the target orchard::metal_cpp.

set(ORCHARD_METAL_CPP_DIR "" CACHE PATH
    "Folder of metal-cpp (with Metal/Metal.hpp), instead of mlx-metal's")

set(metal_cpp ${ORCHARD_METAL_CPP_DIR})
if(NOT metal_cpp)
  execute_process(
    COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/find_metal_cpp.py
    OUTPUT_VARIABLE metal_cpp ERROR_VARIABLE problem RESULT_VARIABLE status
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE)
  if(status)
    message(FATAL_ERROR "[orchard_ops] ${problem}")
  endif()
endif()
if(NOT EXISTS ${metal_cpp}/Metal/Metal.hpp)
  message(FATAL_ERROR "[orchard_ops] no Metal/Metal.hpp in ${metal_cpp}")
endif()

set(ORCHARD_METAL_CPP_LICENCE ${metal_cpp}/LICENSE.txt)

add_library(orchard::metal_cpp INTERFACE IMPORTED)
# SYSTEM: not our warnings.
target_include_directories(orchard::metal_cpp SYSTEM INTERFACE ${metal_cpp})
