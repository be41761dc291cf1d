"""What a run leaves for its user: the table at the end, summary.json and preview.png."""
