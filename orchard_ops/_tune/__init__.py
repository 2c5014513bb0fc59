"""Tiles by measurement: what `orchard_ops.tune` and ``orchard-ops tune`` do."""
