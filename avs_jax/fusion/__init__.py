"""Where sound meets picture: one module per paper's fusion block."""
