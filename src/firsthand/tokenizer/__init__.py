"""Text <-> ids: byte-level BPE, how it is learned and stored, and the two simple tokenizers that come before it."""
