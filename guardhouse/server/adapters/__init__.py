"""LoRA adapters that callers uploaded: kept on disk, opened when asked for."""
