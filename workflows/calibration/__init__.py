"""What a model's output loses by an error in each weight: measured on data, stored, and read back by weight."""
