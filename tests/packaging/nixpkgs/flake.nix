{
  description = "A strict stand-in for nixpkgs: what the project uses, and nothing else";

  outputs =
    _:
    let
      lib = import ./lib.nix;
      systems = [
        "aarch64-darwin"
        "aarch64-linux"
        "x86_64-linux"
      ];
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs systems (system: import ./. { inherit system; });
    };
}
