"""Blocks: plain numbers and tensors in, tensors out."""
