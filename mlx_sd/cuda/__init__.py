"""Networks recorded as CUDA graphs: one launch a step instead of hundreds."""
