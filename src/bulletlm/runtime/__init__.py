"""Running a finished model without torch."""
