# How zig links (see zig.cmake): in place of the rules that CMake has for macOS.
# zig knows no bundles, so a module is a library too.

string(JOIN " " link "<CMAKE_CXX_COMPILER> <LANGUAGE_COMPILE_FLAGS> -shared"
       "-Wl,-headerpad_max_install_names <LINK_FLAGS> -o <TARGET> <OBJECTS>"
       "<LINK_LIBRARIES> -nostdlib++ ${ORCHARD_STUBS}/libc++.1.tbd"
       "-F${ORCHARD_STUBS} -L${ORCHARD_STUBS}")
set(CMAKE_CXX_CREATE_SHARED_LIBRARY
    "${link} <SONAME_FLAG> <TARGET_INSTALLNAME_DIR><TARGET_SONAME>")
set(CMAKE_CXX_CREATE_SHARED_MODULE "${link} -install_name @rpath/<TARGET_NAME>.so")

# To compile alone: the simulator uses more of the system than the stubs have.
if(ORCHARD_COMPILE_ONLY)
  set(CMAKE_CXX_CREATE_SHARED_LIBRARY "<CMAKE_COMMAND> -E touch <TARGET>")
  set(CMAKE_CXX_CREATE_SHARED_MODULE "<CMAKE_COMMAND> -E touch <TARGET>")
endif()
