"""What an output goes through after encoding: verified, mended, pruned, put back, adopted."""
