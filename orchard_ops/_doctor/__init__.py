"""The checks of ``orchard-ops doctor`` and the file that they fill."""
