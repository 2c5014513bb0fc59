# Stands in for one system's nixpkgs.  Functions take named arguments without `...`,
# so that an attribute which they do not know is an error, and put each of them into
# a derivation, so that none is left unevaluated.
#
# Like nixpkgs it refuses a package whose licence is not free, unless the
# configuration lets that one through, and `nox` is a tool for Nix.
#
# host.json (see packaging/nix/flake.py) names a shell, a path and a Python to build
# with for real; without it derivations can be made, not built.
{
  system,
  config ? { },
  overlays ? [ ],
}:
let
  lib = import ./lib.nix;
  isDarwin = system == "aarch64-darwin";
  host =
    if builtins.pathExists ./host.json then
      builtins.fromJSON (builtins.readFile ./host.json)
    else
      {
        shell = "/bin/sh";
        path = "";
      };

  # A derivation that the host's shell builds with builder.sh.
  derive =
    arguments:
    derivation (
      {
        inherit system;
        builder = host.shell;
        args = [ ./builder.sh ];
        PATH = host.path;
      }
      // arguments
    );
  # Something that only has to exist.
  tool = name: derive { inherit name; };
  # A tool that the host has.
  program =
    name: path:
    if path == null then
      tool name
    else
      runCommand name { } "mkdir -p $out/bin; ln -s ${path} $out/bin/${name}; exit 0";
  only = condition: name: value: if condition then value else throw "${name} is not for ${system}";

  isDerivation = value: builtins.isAttrs value && value.type or "" == "derivation";
  derivations =
    what:
    map (
      value:
      if isDerivation value then value else throw "${what}: ${builtins.typeOf value}, no derivation"
    );

  allowUnfree = config.allowUnfreePredicate or (_: false);
  checkMeta =
    pname:
    {
      description,
      license,
      mainProgram ? "",
      platforms ? [ system ],
      sourceProvenance ? [ ],
    }:
    let
      licenses = if builtins.isList license then license else [ license ];
    in
    if !builtins.all (one: one.free) licenses && !allowUnfree { inherit pname; } then
      throw "${pname} has an unfree license, refusing to evaluate"
    else if lib.elem system platforms then
      builtins.toJSON [
        description
        (map (one: one.shortName) licenses)
        mainProgram
        sourceProvenance
      ]
    else
      throw "not for ${system}";

  mkShell =
    {
      inputsFrom ? [ ],
      packages ? [ ],
      env ? { },
    }:
    derive (
      env
      // {
        name = "nix-shell";
        inputsFrom = derivations "inputsFrom" inputsFrom;
        packages = derivations "packages" packages;
        # What `nix develop` asks of a shell.
        outputs = [ "out" ];
        stdenv = runCommand "stdenv" { } "mkdir $out; cp ${./setup.sh} $out/setup; exit 0";
      }
    );

  runCommand =
    name:
    {
      nativeBuildInputs ? [ ],
      meta ? null,
    }:
    text:
    derive {
      inherit name;
      nativeBuildInputs = derivations "nativeBuildInputs" nativeBuildInputs;
      buildCommand = text;
      meta = if meta == null then "" else checkMeta name meta;
    };

  # The name is all of an address that decides anything: the wheel has to be in the
  # store already, by its hash.
  fetchPypi =
    {
      pname,
      version,
      format,
      dist,
      python,
      abi,
      platform,
      hash,
    }:
    let
      name = "${pname}-${version}-${python}-${abi}-${platform}.whl";
    in
    if format != "wheel" || dist != python then
      throw "fetchPypi: ${name} is asked for as ${format}, ${dist}"
    else
      derivation {
        inherit name;
        system = "builtin";
        builder = "builtin:fetchurl";
        url = "file:///not-in-the-store/${name}";
        outputHash = hash;
        outputHashMode = "flat";
      };

  callPackageWith =
    scope: path: arguments:
    let
      function = import path;
      known = builtins.intersectAttrs (builtins.functionArgs function) scope;
    in
    function (known // arguments)
    // {
      override = more: callPackageWith scope path (arguments // more);
    };

  sdks = lib.genAttrs (map (major: "apple-sdk_${major}") [
    "13"
    "14"
    "15"
  ]) (name: only isDarwin name (tool name));
  pythons = import ./python.nix {
    inherit
      lib
      pkgs
      host
      derive
      derivations
      checkMeta
      callPackageWith
      ;
  };

  # As nixpkgs composes them: each overlay sees what was before it, and the end.
  pkgs = builtins.foldl' (prev: overlay: prev // overlay pkgs prev) own overlays;
  own =
    sdks
    // pythons
    // {
      inherit
        lib
        fetchPypi
        mkShell
        runCommand
        ;
      # `nix develop` takes its shell from here.
      bashInteractive = runCommand "bash" { } ''
        mkdir -p $out/bin
        ln -s ${host.shell} $out/bin/bash
        exit 0
      '';
      callPackage = callPackageWith pkgs;
      stdenv = {
        cc.cc.lib = tool "gcc-lib";
        hostPlatform = {
          inherit isDarwin system;
          isLinux = !isDarwin;
          isx86_64 = system == "x86_64-linux";
        };
      };
      autoPatchelfHook = only (!isDarwin) "autoPatchelfHook" (tool "auto-patchelf-hook");
      nox = throw "nox is nix-nox, no tool of Python's: take python3Packages.nox";
      python3Packages.nox = tool "nox";
      pythonPackagesExtensions = [ ];
      zig_0_14 = program "zig" (host.zig or null) // {
        version = "0.14.1";
      };
      darwinMinVersionHook =
        version: only isDarwin "darwinMinVersionHook" (tool "darwin-min-version-${version}");
      runCommandCC = runCommand;
      writeShellScript = name: text: runCommand name { } text;
      writeShellScriptBin = name: text: runCommand name { } text;
    }
    // lib.genAttrs [
      "clang-tools"
      "cmake"
      "ninja"
      "nixfmt-rfc-style"
      "ruff"
      "unzip"
      "zlib"
    ] tool;
in
pkgs
