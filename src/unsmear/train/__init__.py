"""Training: a loop of ours on an engine that exists (Accelerate, in the `train` extra)."""
