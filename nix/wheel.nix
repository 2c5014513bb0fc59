# fetchWheel project version python: a wheel for this system by its pinned hash.
# nix/wheels.json is written by `nox -s nix-wheels`.
{ fetchPypi, system }:
let
  wheels = builtins.fromJSON (builtins.readFile ./wheels.json);
in
project: version: python:
let
  pin =
    wheels.${project}.${version}.${system}.${python} or (throw ''
      nix/wheels.json has no ${project} ${version} for Python ${python} on ${system}:
      run nox -s nix-wheels'');
in
fetchPypi {
  inherit version;
  inherit (pin)
    python
    abi
    platform
    hash
    ;
  pname = project;
  format = "wheel";
  dist = pin.python;
}
