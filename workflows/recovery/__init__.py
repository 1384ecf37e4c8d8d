"""Recovery: what is stored without loss is tuned after compression, so that the output comes closer to the original's."""
