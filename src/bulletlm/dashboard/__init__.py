"""The dashboard: `bullet dashboard` shows, starts and compares runs in a web browser."""
