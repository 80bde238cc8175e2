"""The HTTP interface of Ollama, as far as a small text model has it."""
