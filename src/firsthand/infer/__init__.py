"""A trained model at work: from scores to a choice, from choices to text."""
