"""What can make a comparison misleading before any model runs, and what each of it can do to the metrics."""
