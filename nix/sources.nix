# What of the repository goes into a build, so that other edits rebuild nothing.
let
  root = toString ../.;
  top =
    path:
    let
      inner = builtins.substring (builtins.stringLength root + 1) (-1) path;
    in
    builtins.head (builtins.split "/" inner);
  part =
    name: folders:
    builtins.path {
      inherit name;
      path = ../.;
      filter = path: _: builtins.elem (top path) folders;
    };
  build = [
    "CMakeLists.txt"
    "LICENSE"
    "README.md"
    "cmake"
    "csrc"
    "kernels"
    "orchard_ops"
    "pyproject.toml"
    "versions.toml"
  ];
in
{
  inherit (builtins.fromTOML (builtins.readFile ../pyproject.toml)) project;
  source = part "orchard-ops" build;
  # The tests also try out the tools, and compare what names versions or features.
  tested = part "orchard-ops-tests" (
    build
    ++ [
      ".ci"
      ".github"
      ".pre-commit-config.yaml"
      "CHANGELOG.md"
      "CITATION.cff"
      "CONTRIBUTING.md"
      "docs"
      "examples"
      "flake.lock"
      "flake.nix"
      "locks"
      "mkdocs.yml"
      "nix"
      "noxfile.py"
      "packaging"
      "recipe"
      "tests"
      "tools"
    ]
  );
  nix = part "orchard-ops-nix" [
    "flake.nix"
    "nix"
  ];
}
