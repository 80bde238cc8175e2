"""BulletLM: from raw text to a small 4-bit language model, on an ordinary computer."""

__version__ = "0.1.0"
