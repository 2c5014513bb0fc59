# The compiler that the simulator is tested with, as the Python module that it looks
# for: over nixpkgs' zig where that is the version, else from the wheel, a static binary.
{
  lib,
  buildPythonPackage,
  fetchWheel,
  python,
  version,
  zig_0_14,
}:
let
  common = {
    pname = "ziglang";
    inherit version;
    pythonImportsCheck = [ "ziglang" ];
  };
  meta = {
    description = "Zig's C and C++ compiler";
    license = lib.licenses.mit;
  };
in
if zig_0_14.version == version then
  buildPythonPackage (
    common
    // {
      format = "other";
      dontUnpack = true;
      dontBuild = true;
      installPhase = ''
        runHook preInstall
        site=$out/${python.sitePackages}
        info=$site/ziglang-${version}.dist-info
        mkdir -p $site/ziglang $info
        ln -s ${zig_0_14}/bin/zig $site/ziglang/zig
        touch $site/ziglang/__init__.py
        cat > $site/ziglang/__main__.py <<END
        import os, sys
        os.execv(os.path.join(os.path.dirname(__file__), "zig"), ["zig", *sys.argv[1:]])
        END
        printf 'Metadata-Version: 2.1\nName: ziglang\nVersion: ${version}\n' > $info/METADATA
        runHook postInstall
      '';
      inherit meta;
    }
  )
else
  buildPythonPackage (
    common
    // {
      format = "wheel";
      src = fetchWheel "ziglang" version "any";
      dontStrip = true;
      meta = meta // {
        sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
      };
    }
  )
