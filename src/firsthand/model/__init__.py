"""The architecture: config, sizes, layers, attention, cache, and the GPT they make."""
