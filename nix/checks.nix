# What `nix flake check` runs: every build with its smoke test, the test suite on
# the default PyTorch, and the formatter.
{
  pkgs,
  sources,
  environment,
  libraries,
  metal-cpp,
  builds,
}:
let
  inherit (pkgs) lib nixfmt-rfc-style;
  inherit (pkgs.stdenv.hostPlatform) isDarwin;
in
lib.mapAttrs' (name: lib.nameValuePair "build-${name}") builds
// {
  # Some tests compile C++ of their own.
  tests = pkgs.runCommandCC "orchard-ops-tests" { nativeBuildInputs = [ environment ]; } ''
    cp -r ${sources.tested} tree
    chmod -R u+w tree
    cd tree
    export HOME=$(mktemp -d) OMP_NUM_THREADS=1
    # Tests start Pythons in this folder, which import the modules that lie here.
    export ORCHARD_LIBRARY_DIR=${libraries}
    # What the tests would download: the sandbox has no network.
    export ORCHARD_METAL_CPP_DIR=${metal-cpp}
    # As in package.nix: on a Mac what needs neither GPU nor simulator.
    export ORCHARD_TEST_DEVICE=${lib.optionalString isDarwin "cpu"}
    pytest -n "$NIX_BUILD_CORES" --timeout 600 -p no:cacheprovider
    touch $out
  '';

  format = pkgs.runCommand "orchard-ops-format" { nativeBuildInputs = [ nixfmt-rfc-style ]; } ''
    find ${sources.nix} -name '*.nix' -exec nixfmt --check {} +
    touch $out
  '';
}
