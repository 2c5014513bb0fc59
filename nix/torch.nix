# PyTorch from its own wheel, like nixpkgs' torch-bin, but without CUDA: on Linux
# the CPU half is all that the simulator needs, and a CUDA wheel does not load
# without 2 GB of NVIDIA's unfree libraries.
{
  lib,
  stdenv,
  autoPatchelfHook,
  buildPythonPackage,
  fetchWheel,
  filelock,
  fsspec,
  jinja2,
  networkx,
  numpy,
  python,
  setuptools,
  sympy,
  typing-extensions,
  version,
  zlib,
}:
let
  inherit (stdenv.hostPlatform) isLinux isx86_64;
in
buildPythonPackage {
  pname = "torch";
  inherit version;
  format = "wheel";
  src = fetchWheel "torch" version python.pythonVersion;

  nativeBuildInputs = lib.optionals isLinux [ autoPatchelfHook ];
  buildInputs = lib.optionals isLinux [
    stdenv.cc.cc.lib
    zlib
  ];
  dependencies = [
    filelock
    fsspec
    jinja2
    networkx
    numpy
    setuptools
    sympy
    typing-extensions
  ];

  # Leaves a wheel without CUDA as it is.  LIBRARY_PATH: where gcc looks when asked
  # for the path of libstdc++.so.6.
  postInstall = lib.optionalString isLinux ''
    LIBRARY_PATH=${stdenv.cc.cc.lib}/lib python ${../tools/cpu_torch.py} \
      --tree $out/${python.sitePackages}
  '';

  # Stripping breaks the alignment of the wheel's large libraries.
  dontStrip = true;
  pythonImportsCheck = [ "torch" ];

  meta = {
    description = "Tensors and dynamic neural networks, from the wheel";
    # Intel's MKL is linked into the wheel for x86-64.
    license = [ lib.licenses.bsd3 ] ++ lib.optional (isLinux && isx86_64) lib.licenses.issl;
    sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
    platforms = [
      "aarch64-darwin"
      "aarch64-linux"
      "x86_64-linux"
    ];
  };
}
