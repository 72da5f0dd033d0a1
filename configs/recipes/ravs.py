"""RAVS: settings of the model at the paper's values, and its objective; what the paper does not give: docs/ravs.md."""

SETTINGS = {
  "width": 256,
  "merge": "groups",  # or cells: neither grouped nor merged, the ablations' baseline
  "merge_of": "heard",  # or seen: the sound then reaches the groups through weights alone
  "groups": (14, 7, 5),  # of a frame at strides 4, 8, 16
  "neighbours": 5,  # tokens that make up a token's density
  "merge_layers": 2,  # updates of the groups at each stride
  "heads": 8,
  "temporal": True,  # seconds look at one another before the masks; False for ablations
  "uncertainty_form": "paper",  # paper (equation 11), discount, none
  "uncertainty_span": "frame",  # scaled to [0, 1] in each frame, or over a clip
}

_BINARY = {  # equation 12
  "loss": {
    "bce": 1.0,
    "dice": 1.0,
    "soft_iou": 1.0,
    "alignment": 0.1,
    "matching": "none",
    "matching_weight": 0.0,
  },
  "optimizer": {"clip_norm": 1.0},  # the optimiser is not given, so AVSBench's; its norm is cut, ours
}
_SEMANTIC = {
  "loss": {
    "bce": 0.0,
    "dice": 0.0,
    "soft_iou": 0.0,
    "cross_entropy": 1.0,
    "class_dice": 1.0,
    "class_iou": 1.0,
  }
}
RECIPES = {"s4": (_BINARY,), "ms3": (_BINARY,), "avss": (_BINARY, _SEMANTIC), "tiny": (_BINARY,)}
