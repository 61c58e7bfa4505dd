"""Files to named tensors and back, and directories that a crash cannot tear."""
