"""Object stores, one per file, registered by URI scheme."""
