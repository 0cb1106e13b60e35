"""Ranked lists and targets -> numbers. Pure functions; nothing here reads or writes a file."""
