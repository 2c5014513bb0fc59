"""The kernels' work, counted, and what it should cost on Apple's GPUs."""
