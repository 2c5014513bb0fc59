"""Other libraries, each in a module of its own that imports it only when used."""
