# A shell to develop against one PyTorch: what the build needs, and the tools.
{
  lib,
  stdenv,
  clang-tools,
  cmake,
  mkShell,
  ninja,
  nox,
  python,
  ruff,
}:
let
  inherit (stdenv.hostPlatform) isDarwin;
  package = python.pkgs.orchard-ops;
  extras = package.optional-dependencies;
in
mkShell {
  inputsFrom = [ package ];
  packages = [
    (python.withPackages (
      ps:
      [
        ps.pybind11
        ps.scikit-build-core
        ps.torch
      ]
      ++ extras.test
      ++ extras.demo
    ))
    clang-tools
    cmake
    ninja
    nox
    ruff
  ];
  # For cmake -DORCHARD_METAL_CPP_DIR=…; empty where there is no Metal.
  env.ORCHARD_METAL_CPP_DIR = lib.optionalString isDarwin "${package.metal-cpp}";
}
