"""Statistics of paired comparisons with the user as the unit. Pure functions of arrays; seeds are explicit."""
