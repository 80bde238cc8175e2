"""Measuring a model, and the 4-bit file against the full one."""
