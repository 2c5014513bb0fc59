"""The macOS wheels: built on any machine, every symbol proved."""
