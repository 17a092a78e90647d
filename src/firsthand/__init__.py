"""firsthand: build a large language model with your own hands."""
