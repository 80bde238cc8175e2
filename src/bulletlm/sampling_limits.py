"""Limits of the sampling settings, for the file format, the engines and the server alike."""

SAMPLING_LIMITS = {
    "temperature": (float, 0.0, 10.0),
    "top_k": (int, 0, 1 << 20),
    "top_p": (float, 0.0, 1.0),
    "min_p": (float, 0.0, 1.0),
    "repetition_penalty": (float, 1e-6, 10.0),
    "max_tokens": (int, 1, 1 << 20),
}
"""Sampling settings that a model file may hold: type, lowest and highest value."""

PENALTY_WINDOW = 64
"""Number of most recent tokens that the repetition penalty looks at; the same as in llama.cpp."""
