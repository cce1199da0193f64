"""Run pages: one HTML file that says what a run was, where it came from and what it reached; see `page`."""
