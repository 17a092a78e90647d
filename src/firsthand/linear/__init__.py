"""What may stand where a Linear stood: adapters, and layers of fewer bits."""
