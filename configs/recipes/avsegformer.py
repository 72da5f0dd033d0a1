"""AVSegFormer: settings of the model at the paper's values, and its recipe on each benchmark."""

SETTINGS = {
  "width": 256,
  "head_channels": 0,  # 0: an eighth of the width
  "num_queries": 300,
  "generator_layers": 6,
  "encoder_layers": 6,
  "decoder_layers": 6,
  "heads": 8,
  "points": 4,
  "dropout": 0.1,
  "mixer": "released",  # released (a sigmoid gate), paper (a residual)
  "sampling": "packed",  # packed, plain: equal numbers
}

_PAPER = {
  "data": {"size": 512},  # S4 and MS3: the released loader enlarges the stored 224
  "model": {"remat": True},  # without it two clips take 76 GB, with it 16 (docs/recipes.md)
  "loss": {
    "bce": 0.0,
    "dice": 1.0,
    "mix_dice": 0.1,
    "matching": "none",
    "matching_weight": 0.0,
  },
  "optimizer": {"name": "adamw_all", "lr": 2e-5, "weight_decay": 0.01},
  "schedule": {"batch": 2},
}
_SEMANTIC = {
  "data": {"size": 224},
  "loss": {"cross_entropy": 1.0, "dice": 0.0},
  "schedule": {"batch": 4, "epochs": 30},
  "eval": {"from_epoch": 10, "every_epochs": 2.0},
}
RECIPES = {
  "s4": (_PAPER, {"schedule": {"epochs": 30}, "optimizer": {"freeze_epochs": {"visual_encoder": 5}}}),
  "ms3": (_PAPER, {"schedule": {"epochs": 60}, "optimizer": {"freeze_epochs": {"visual_encoder": 10}}}),
  "avss": (_PAPER, _SEMANTIC),
}
