"""The flake: its pinned wheels, evaluated and built without nixpkgs."""
