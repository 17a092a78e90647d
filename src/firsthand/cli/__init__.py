"""The command line: reads words, calls run.py, prints what comes back."""
