# Apple's metal-cpp headers, out of the wheel that carries them; nothing of the
# wheel is linked or kept.
{
  lib,
  fetchWheel,
  runCommand,
  unzip,
  version,
}:
runCommand "metal-cpp-${version}"
  {
    nativeBuildInputs = [ unzip ];
    meta = {
      description = "Apple's C++ headers of Metal";
      license = lib.licenses.asl20;
    };
  }
  ''
    unzip -q ${fetchWheel "mlx_metal" version "any"} '*/metal_cpp/*'
    mv "$(dirname "$(dirname "$(find . -path '*/Metal/Metal.hpp')")")" $out
  ''
