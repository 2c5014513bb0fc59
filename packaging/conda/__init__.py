"""The conda packages: a channel of stand-ins, builds, solves, installs, tests."""
