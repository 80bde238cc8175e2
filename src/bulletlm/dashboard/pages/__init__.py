"""The pages of the dashboard: each module has one function that builds one page."""
