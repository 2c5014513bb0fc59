# The compiler that the simulator is tested with, from its wheel: a static binary.
{
  lib,
  buildPythonPackage,
  fetchWheel,
  version,
}:
buildPythonPackage {
  pname = "ziglang";
  inherit version;
  format = "wheel";
  src = fetchWheel "ziglang" version "any";

  dontStrip = true;
  pythonImportsCheck = [ "ziglang" ];

  meta = {
    description = "Zig's C and C++ compiler";
    license = lib.licenses.mit;
    sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
  };
}
