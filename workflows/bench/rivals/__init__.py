"""Other ways to compress a model's weights, and ours, behind one interface: one file each."""
