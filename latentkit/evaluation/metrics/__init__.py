"""One metric a file; each agrees with the published evaluators on golden values."""
