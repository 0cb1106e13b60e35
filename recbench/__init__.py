"""recbench compares recommenders honestly: the same rows in, ranked lists of exact items out, everything else computed from them."""
