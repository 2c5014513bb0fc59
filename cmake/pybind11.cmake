# Finds the pybind11 of the interpreter that builds, or one on CMake's own path
# (packagers may install the Python module without its CMake files).

execute_process(
  COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
  OUTPUT_VARIABLE pybind11_ROOT ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
find_package(pybind11 2.12 CONFIG QUIET)
if(NOT pybind11_FOUND)
  message(FATAL_ERROR "[orchard_ops] ${Python_EXECUTABLE} has no pybind11 2.12 or "
                      "newer: pip install pybind11")
endif()
