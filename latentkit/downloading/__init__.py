"""Files over HTTP, with retries, deadlines and resuming: photos, and published weights. Imports no torch."""
