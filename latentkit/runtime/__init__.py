"""What every run needs and no picture: device, precision, memory, interrupts, progress, provenance."""
