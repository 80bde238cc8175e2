"""The HTTP interface of OpenAI: the part that applies to a small text model."""
