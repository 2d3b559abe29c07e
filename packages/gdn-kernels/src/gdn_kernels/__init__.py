"""Frame-wise Gated DeltaNet: reference, CPU path and carried state."""
