"""Of ``flash_attn.layers`` the module that others import: ``rotary``."""
