# A shell to develop against one PyTorch: what the build needs, and the tools.
{
  clang-tools,
  cmake,
  mkShell,
  ninja,
  python,
  python3Packages,
  ruff,
}:
let
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
    python3Packages.nox # Plain `nox` is a tool for Nix.
    ruff
  ];
  # For cmake -DORCHARD_METAL_CPP_DIR=…, and for the tests, on Linux too.
  env.ORCHARD_METAL_CPP_DIR = "${package.metal-cpp}";
}
