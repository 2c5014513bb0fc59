# The Pythons of the stand-in, with the part of their package sets that is used.
{
  lib,
  pkgs,
  host,
  derive,
  derivations,
  checkMeta,
  callPackageWith,
}:
let
  # What nixpkgs has of its own, with the dependencies that can meet in one
  # environment.
  modules = {
    expecttest = [ ];
    filelock = [ ];
    fsspec = [ ];
    hypothesis = [ ];
    jinja2 = [ ];
    matplotlib = [ "numpy" ];
    networkx = [ ];
    numpy = [ ];
    pybind11 = [ ];
    pytest = [ ];
    pytest-timeout = [ "pytest" ];
    pytest-xdist = [ "pytest" ];
    rich = [ ];
    scikit-build-core = [ ];
    setuptools = [ ];
    sympy = [ ];
    typer = [ ];
    torch = [ "numpy" ];
    typing-extensions = [ ];
  };
  # As far as the project looks at them: those of nixpkgs 25.05's time.
  versions = {
    scikit-build-core = host.scikit-build-core or "0.10.7";
    torch = "2.7.0";
  };

  make =
    version: packageOverrides:
    let
      # Python packages of this very interpreter, with all that they need, each
      # project once: what nixpkgs finds out when it builds.
      closure =
        what: packages:
        let
          all = builtins.concatMap (package: package.closure) (own what packages);
          one =
            project: found:
            if builtins.all (package: package == builtins.head found) found then
              builtins.head found
            else
              throw "${what}: two of ${project} meet";
        in
        builtins.attrValues (lib.mapAttrs one (builtins.groupBy (package: package.pname) all));
      own =
        what: packages:
        map (
          package:
          if package.pythonVersion or "" == version then
            package
          else
            throw "${what}: ${package.name or "?"} is not of Python ${version}"
        ) (derivations what packages);
      module =
        attributes: arguments:
        let
          self =
            derive arguments
            // attributes
            // {
              pythonVersion = version;
              pythonModule = python;
              closure = [ self ] ++ closure attributes.pname attributes.dependencies;
            };
        in
        self;

      standIn =
        pname: dependencies:
        module (
          { inherit pname dependencies; }
          // lib.optionalAttrs (versions ? ${pname}) { version = versions.${pname}; }
        ) { name = "python${version}-${pname}"; };

      buildPythonPackage =
        {
          pname,
          version,
          src ? null,
          pyproject ? false,
          format ? null,
          build-system ? [ ],
          dependencies ? [ ],
          optional-dependencies ? { },
          nativeBuildInputs ? [ ],
          buildInputs ? [ ],
          nativeCheckInputs ? [ ],
          pypaBuildFlags ? [ ],
          dontUseCmakeConfigure ? false,
          dontUseNinjaBuild ? false,
          dontUseNinjaCheck ? false,
          dontUseNinjaInstall ? false,
          dontStrip ? false,
          dontUnpack ? false,
          dontBuild ? false,
          env ? { },
          postPatch ? "",
          installPhase ? "",
          postInstall ? "",
          pythonImportsCheck ? [ ],
          checkPhase ? "",
          passthru ? { },
          meta,
        }:
        if pyproject == (format != null) || !builtins.elem format [ null "other" "wheel" ] then
          throw "${pname}: exactly one of pyproject = true and format = \"wheel\""
        else if (src == null) != dontUnpack || (format == "other") != (installPhase != "") then
          throw "${pname}: no src means dontUnpack, format = \"other\" an installPhase"
        else
          module ({ inherit pname version dependencies optional-dependencies; } // passthru) (
            env
            // {
              inherit
                version
                src
                pyproject
                pypaBuildFlags
                dontUseCmakeConfigure
                dontUseNinjaBuild
                dontUseNinjaCheck
                dontUseNinjaInstall
                dontStrip
                dontUnpack
                dontBuild
                postPatch
                installPhase
                postInstall
                pythonImportsCheck
                checkPhase
                ;
              name = "python${python.pythonVersion}-${pname}-${version}";
              buildSystem = own "build-system" build-system;
              nativeBuildInputs = derivations "nativeBuildInputs" nativeBuildInputs;
              buildInputs = derivations "buildInputs" buildInputs;
              # Where Python finds what is imported.
              pythonPath = closure "dependencies" (dependencies ++ nativeCheckInputs);
              extras = closure "optional-dependencies" (
                builtins.concatLists (builtins.attrValues optional-dependencies) ++ dependencies
              );
              sitePackages = python.sitePackages;
              hostPython = host.python or "";
              # What an environment with this package gets along.
              propagated = closure "dependencies" dependencies;
              meta = checkMeta pname meta;
            }
          );

      base =
        lib.mapAttrs (
          pname: dependencies: standIn pname (map (name: final.${name}) dependencies)
        ) modules
        // {
          inherit buildPythonPackage python;
          numpy_1 = standIn "numpy" [ ];
          callPackage = callPackageWith (pkgs // final);
        };
      extensions = pkgs.pythonPackagesExtensions ++ [ packageOverrides ];
      final = builtins.foldl' (prev: extension: prev // extension final prev) base extensions;

      python = {
        pythonVersion = version;
        sitePackages = "lib/python${version}/site-packages";
        pkgs = final;
        override =
          change:
          let
            old = {
              inherit packageOverrides;
            };
            arguments = if builtins.isFunction change then change old else change;
            known = { self, packageOverrides }: make version packageOverrides;
          in
          known arguments;
        withPackages =
          choose:
          derive {
            name = "python3-${version}-env";
            packages = closure "withPackages" (choose final);
            buildCommand = ''
              mkdir $out
              for package in $packages; do
                cp -rsn $package/. $out
              done
              exit 0
            '';
          };
      };
    in
    python;
in
let
  digits = builtins.replaceStrings [ "." ] [ "" ];
  one = version: lib.nameValuePair "python${digits version}" (make version (_: _: { }));
  pythons = lib.listToAttrs (
    map one [
      "3.10"
      "3.11"
      "3.12"
      "3.13"
    ]
  );
in
pythons // { python3 = pythons.python312; }
