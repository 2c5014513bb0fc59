"""The Linux wheel: the operators of every PyTorch, and the simulator."""
