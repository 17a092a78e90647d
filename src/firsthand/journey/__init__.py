"""The main job: every stage from text to a talking model in order, resumable, ending in a report."""
