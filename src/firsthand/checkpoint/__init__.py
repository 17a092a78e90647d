"""Saved models: a directory that says everything, and the tensors inside it."""
