"""Speed, memory and work of whole systems; ratios within one run, never a timed test."""
