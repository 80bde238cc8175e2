"""The HTTP server: `bullet serve`."""
