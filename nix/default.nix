# Everything that the flake offers for a system: one nixpkgs × versions.toml.
{ pkgs }:
let
  inherit (pkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) isDarwin system;
  matrix = builtins.fromTOML (builtins.readFile ../versions.toml);
  sources = import ./sources.nix;
  wheelsOf =
    system:
    import ./wheel.nix {
      inherit system;
      inherit (pkgs) fetchPypi;
    };
  fetchWheel = wheelsOf system;
  # Headers, which the tests compile on Linux too.
  metal-cpp = pkgs.callPackage ./metal-cpp.nix {
    fetchWheel = wheelsOf "aarch64-darwin";
    version = matrix.nix.mlx_metal;
  };
  digits = builtins.replaceStrings [ "." ] [ "" ];
  inherit (matrix.package) default;

  # The oldest macOS for a PyTorch: between two of the table, that of the newer one.
  deploymentTargetOf =
    version:
    let
      known = lib.attrNames matrix.wheels.torch;
      minor = lib.versions.majorMinor;
      fitting = lib.filter (each: lib.versionAtLeast (minor each) (minor version)) known;
      older = a: b: lib.versionOlder a b;
    in
    if fitting == [ ] then
      throw "PyTorch ${version} is newer than all under [wheels.torch] in versions.toml"
    else
      matrix.wheels.torch.${lib.head (lib.sort older fitting)};

  # orchard-ops for whatever PyTorch a Python package set has: nixpkgs' own, if nothing
  # else is said.
  extension = final: _: {
    ziglang = final.callPackage ./ziglang.nix {
      inherit fetchWheel;
      inherit (pkgs) zig_0_14;
      version = matrix.package.ziglang;
    };
    orchard-ops = final.callPackage ./package.nix {
      # Not the Python modules of these names.
      inherit (pkgs) cmake ninja;
      inherit (sources) source;
      inherit (sources.project) version;
      deploymentTarget = deploymentTargetOf final.torch.version;
      appleSdks = pkgs;
      inherit metal-cpp;
    };
  };

  # A Python with more packages; those that were put into it before stay.
  extended =
    base: more:
    let
      python = base.override (old: {
        self = python;
        packageOverrides = lib.composeExtensions (old.packageOverrides or (_: _: { })) more;
      });
    in
    python;

  # A Python whose package set holds one PyTorch and the orchard-ops for it.
  pythonFor =
    entry: version:
    extended pkgs."python${digits version}" (
      lib.composeExtensions extension (
        final: prev:
        {
          torch = final.callPackage ./torch.nix {
            inherit fetchWheel;
            inherit (entry) version;
          };
        }
        # A PyTorch built for NumPy 1 breaks with 2.
        // lib.optionalAttrs (entry.numpy == "numpy<2") { numpy = prev.numpy_1; }
      )
    );

  pythonsOf = entry: lib.filter (v: lib.elem v entry.pythons) matrix.nix.pythons;
  favoured = entry: pythonFor entry (lib.head (pythonsOf entry));
  pythons = lib.mapAttrs (_: favoured) matrix.torch;

  # "-py311" names another Python, "-macos14" another deployment target.
  variantsOf =
    name: entry:
    let
      package = pythons.${name}.pkgs.orchard-ops;
      lowest = matrix.wheels.torch.${entry.version};
      targets = lib.filter (v: lib.versionAtLeast v lowest) matrix.macos.deployment_targets;
      named = suffix: lib.nameValuePair "orchard-ops-${name}${suffix}";
      forPython = v: named "-py${digits v}" (pythonFor entry v).pkgs.orchard-ops;
      forTarget =
        v: named "-macos${lib.versions.major v}" (package.override { deploymentTarget = v; });
    in
    lib.listToAttrs (
      [ (named "" package) ]
      ++ map forPython (pythonsOf entry)
      ++ lib.optionals isDarwin (map forTarget targets)
    );
  packages = lib.concatMapAttrs variantsOf matrix.torch;

  environment =
    extra:
    pythons.${default}.withPackages (
      ps: [ ps.orchard-ops ] ++ ps.orchard-ops.optional-dependencies.${extra}
    );
  command =
    name: extra:
    pkgs.writeShellScript "orchard-ops-${name}" ''
      exec ${environment extra}/bin/orchard-ops ${name} "$@"
    '';
in
{
  inherit extension;

  packages = packages // {
    default = packages."orchard-ops-${default}";
    # For nixpkgs' own PyTorch.
    orchard-ops = (extended pkgs.python3 extension).pkgs.orchard-ops;
  };

  shells =
    let
      shells = lib.mapAttrs (_: python: pkgs.callPackage ./shell.nix { inherit python; }) pythons;
    in
    shells // { default = shells.${default}; };

  programs = {
    default = command "doctor" "test";
    demo = command "train" "demo";
    doctor = command "doctor" "test";
  };

  checks = import ./checks.nix {
    inherit metal-cpp pkgs sources;
    environment = environment "test";
    libraries =
      let
        python = pythons.${default};
      in
      "${python.pkgs.orchard-ops}/${python.sitePackages}/orchard_ops";
    builds = lib.mapAttrs (name: _: packages."orchard-ops-${name}") matrix.torch;
  };

  formatter = pkgs.writeShellScriptBin "orchard-ops-format" ''
    [ $# -gt 0 ] || set -- flake.nix nix tests/packaging/nixpkgs
    find "$@" -name '*.nix' -exec ${pkgs.nixfmt-rfc-style}/bin/nixfmt {} +
  '';
}
