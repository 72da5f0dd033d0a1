"""Audio-visual segmentation in JAX: systems that mask what sounds, and measures of whether they listen."""
