"""Clips in, batches out: reading, sound substitution, noising, log-mel, batching and sharding."""
