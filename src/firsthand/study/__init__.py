"""What came out, drawn and written down: figures with the numbers behind them, and pages that need nothing else."""
