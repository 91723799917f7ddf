"""Pages in HTML: the report of a run, one batch step by step, and the list of runs. Each is one file without links."""
