# orchard-ops for the PyTorch of a Python package set.
{
  lib,
  stdenv,
  appleSdks,
  buildPythonPackage,
  cmake,
  darwinMinVersionHook,
  deploymentTarget,
  expecttest,
  hypothesis,
  matplotlib,
  metal-cpp,
  ninja,
  numpy,
  pybind11,
  pytest,
  pytest-timeout,
  pytest-xdist,
  python,
  rich,
  scikit-build-core,
  source,
  torch,
  typer,
  version,
  ziglang,
}:
let
  inherit (stdenv.hostPlatform) isDarwin;
  # A Mac's sandbox may have no GPU, and macOS has no simulator: there the smoke test,
  # which says so and goes on with the CPU.
  smoke = if isDarwin then ../recipe/smoke.py else "-m orchard_ops.cli doctor";
  optional-dependencies = rec {
    sim = [
      numpy
      ziglang
    ];
    cli = [
      rich
      typer
    ];
    demo = sim ++ cli ++ [ matplotlib ];
    bench = demo;
    test =
      sim
      ++ cli
      ++ [
        expecttest
        hypothesis
        matplotlib
        pytest
        pytest-timeout
        pytest-xdist
      ];
  };
in
buildPythonPackage {
  pname = "orchard-ops";
  inherit version;
  pyproject = true;

  src = source;

  # 0.10, which nixpkgs of 25.05's time had, reads the older form of a licence.
  postPatch = lib.optionalString (lib.versionOlder scikit-build-core.version "0.11") ''
    substituteInPlace pyproject.toml \
      --replace-fail 'license = "MIT"' 'license = { text = "MIT" }' \
      --replace-fail 'license-files = ["LICENSE"]' "" \
      --replace-fail 'minimum-version = "0.11"' 'minimum-version = "0.10"'
  '';

  build-system = [
    pybind11
    scikit-build-core
  ];

  nativeBuildInputs = [
    cmake
    ninja
  ];

  # The SDK that the deployment target came with: no newer symbol can slip in.
  buildInputs = lib.optionals isDarwin [
    appleSdks."apple-sdk_${lib.versions.major deploymentTarget}"
    (darwinMinVersionHook deploymentTarget)
  ];

  # The command needs its extra, and goes with every build.
  dependencies = [ torch ] ++ optional-dependencies.cli;

  inherit optional-dependencies;

  nativeCheckInputs = optional-dependencies.sim;

  # The headers come as a folder, not as the Python package that pip would take.
  pypaBuildFlags = [ "--skip-dependency-check" ];

  env.SKBUILD_CMAKE_DEFINE = lib.concatStringsSep ";" (
    [ "ORCHARD_RPATH=${torch}/${python.sitePackages}/torch/lib" ]
    ++ lib.optional isDarwin "ORCHARD_METAL_CPP_DIR=${metal-cpp}"
  );

  # scikit-build-core calls both.
  dontUseCmakeConfigure = true;
  dontUseNinjaBuild = true;
  dontUseNinjaCheck = true;
  dontUseNinjaInstall = true;

  checkPhase = ''
    runHook preCheck
    export HOME=$(mktemp -d)
    # Not in the source folder, which would be imported instead of the package.
    (cd "$HOME" && python ${smoke})
    runHook postCheck
  '';

  pythonImportsCheck = [ "orchard_ops" ];

  passthru = { inherit metal-cpp; };

  meta = {
    description = "Flash attention for PyTorch on Apple GPUs, with a simulator";
    # On a Mac inline functions of metal-cpp are compiled in.
    license = [ lib.licenses.mit ] ++ lib.optional isDarwin lib.licenses.asl20;
    mainProgram = "orchard-ops";
    platforms = [
      "aarch64-darwin"
      "aarch64-linux"
      "x86_64-linux"
    ];
  };
}
