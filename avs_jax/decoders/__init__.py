"""From fused maps to mask logits."""
