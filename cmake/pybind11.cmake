# Finds the pybind11 of the interpreter that builds.

execute_process(
  COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
  OUTPUT_VARIABLE pybind11_ROOT RESULT_VARIABLE status
  OUTPUT_STRIP_TRAILING_WHITESPACE)
if(status)
  message(FATAL_ERROR "[orchard_ops] ${Python_EXECUTABLE} has no pybind11: "
                      "pip install pybind11")
endif()
find_package(pybind11 2.12 CONFIG REQUIRED)
