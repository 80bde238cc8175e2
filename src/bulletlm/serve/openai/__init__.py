"""The HTTP interface of OpenAI, as far as a small text model has it."""
