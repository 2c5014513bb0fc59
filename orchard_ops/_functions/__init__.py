"""The public attention functions."""
