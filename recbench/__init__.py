"""Compare recommenders honestly: the same rows for all, ranked lists on disk, every number computed from them."""
