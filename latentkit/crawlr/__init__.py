"""The crawler's photo library: its list, its links, its older records. Imports no torch."""
