{
  description = "Flash attention for PyTorch on Apple GPUs, with a Metal simulator";

  # The last release with Apple SDKs 13, 14 and 15: see docs/nix.md.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      matrix = builtins.fromTOML (builtins.readFile ./versions.toml);
      systems = [
        "aarch64-darwin"
        "aarch64-linux"
        "x86_64-linux"
      ];
      # PyTorch's wheel for x86-64 holds Intel's MKL: nix/torch.nix.
      config.allowUnfreePredicate = package: lib.hasSuffix "torch" (lib.getName package);
      orchard = lib.genAttrs systems (
        system: import ./nix { pkgs = import nixpkgs { inherit config system; }; }
      );
      each = make: lib.mapAttrs (_: make) orchard;
    in
    {
      # orchard-ops-torch24 and so on, -py311 for another Python, -macos14 for
      # another deployment target; default is that of versions.toml.
      packages = each (built: built.packages);

      devShells = each (built: built.shells);

      apps = each (
        built:
        lib.mapAttrs (_: program: {
          type = "app";
          program = "${program}";
        }) built.programs
      );

      checks = each (built: built.checks);

      formatter = each (built: built.formatter);

      # Every Python of nixpkgs gets orchard-ops for nixpkgs' own PyTorch.  The other
      # names come from versions.toml alone, so that they need no `final`.
      overlays.default =
        final: prev:
        {
          pythonPackagesExtensions = prev.pythonPackagesExtensions ++ [
            (import ./nix { pkgs = final; }).extension
          ];
        }
        // lib.mapAttrs' (name: _: {
          name = "orchard-ops-${name}";
          value = (import ./nix { pkgs = final; }).packages."orchard-ops-${name}";
        }) matrix.torch;
    };
}
