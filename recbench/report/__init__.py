"""Results -> tables, figures and a folder to read. All rounding of numbers happens here."""
