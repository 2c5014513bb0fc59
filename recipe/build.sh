#!/usr/bin/env bash
# Builds for the PyTorch of the host environment.  Downloads and probes nothing.
set -euo pipefail
# The time of the source, not of this build (cmake/source_date.py).
[[ -n ${SOURCE_DATE_EPOCH:-} ]] || unset SOURCE_DATE_EPOCH

if [[ $target_platform == osx-arm64 ]]; then
  # No simulator, whose Python extension would tie the package to one Python; every
  # symbol is proved.
  python=$BUILD_PREFIX/bin/python # The host's is a Mac's.
  if [[ $(uname) == Darwin ]]; then
    sdk=macosx$MACOSX_SDK_VERSION
    export SDKROOT="${CONDA_BUILD_SYSROOT:-$(xcrun --sdk "$sdk" --show-sdk-path)}"
  fi # Elsewhere zig compiles.
  # A package of the channel's, or a second source of the recipe.
  metal_cpp=$PREFIX/include/metal-cpp
  [[ -d $metal_cpp ]] || metal_cpp=$SRC_DIR/metal-cpp
  cp "$metal_cpp/LICENSE.txt" metal-cpp-LICENSE.txt
  "$python" packaging macos.wheels --tree "$SP_DIR" \
    --metal-cpp "$metal_cpp" --target "$MACOSX_DEPLOYMENT_TARGET" \
    --out dist
  "$python" -m zipfile -e dist/*.whl "$SP_DIR"
  exit
fi

# Conda's own choice is make, one file at a time.
export CMAKE_GENERATOR=Ninja CMAKE_BUILD_PARALLEL_LEVEL="${CPU_COUNT:-2}"
"$PYTHON" -m pip wheel . --no-deps --no-build-isolation --no-index \
  --disable-pip-version-check --wheel-dir dist -v
# Not by pip: its list of files would have the digest of a command that conda writes anew.
"$PYTHON" -m zipfile -e dist/*.whl "$SP_DIR"
# Compiled here, so that no module remembers the build's prefix.
"$PYTHON" -m compileall -q -s "$PREFIX" "$SP_DIR/orchard_ops"
