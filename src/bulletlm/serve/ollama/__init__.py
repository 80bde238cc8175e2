"""The HTTP interface of Ollama: the part that applies to a small text model."""
