"""The 4-bit and 8-bit weight grids."""
