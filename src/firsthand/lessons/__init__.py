"""Each idea as slowly as possible, in plain Python and plain torch; tests hold every lesson equal to production."""
