"""What a model is asked to get right: examples -> Batch -> Loss."""
