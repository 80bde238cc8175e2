"""Weights in the formats of other tools."""
