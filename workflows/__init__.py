"""What users run: plan, compress, verify, decompress, inspect, train, and the command line."""
