"""Do the tests reject 5% where nothing differs, and do the intervals cover 95%? Simulated worlds with known truth."""
