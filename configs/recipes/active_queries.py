"""BiasAVS's active queries: settings of the model at the paper's values, and its recipe on each benchmark."""

SETTINGS = {
  "width": 256,
  "num_queries": 100,
  "mode": "paper",  # paper, released (checkpoint parity)
  "dilation": 2,  # queries that one mark opens
  "interaction": "active",  # active, all: whether dormant queries take part in the decoder
  "first_query": True,  # query 0 is open whatever is heard
  "perception_layers": 3,
  "encoder_layers": 6,
  "decoder_layers": 9,
  "heads": 8,
  "points": 4,
  "dropout": 0.1,
  "adapters": True,
  "head_classes": 0,  # 0: as many as there are classes; released 150
  "sampling": "packed",
}

_LOSS = {  # no part but the set's
  "bce": 0.0,
  "cross_entropy": 0.0,
  "matching": "none",
  "matching_weight": 0.0,
  "queries": 1.0,
}
_PAPER = {
  "data": {"size": 384},
  "model": {"visual": "swin_base_w12", "remat": True},  # else four clips take 40 GB (docs/recipes.md)
  "marks": {"kind": "kmeans"},  # the paper's best, marks.kind=classifier, needs a file of BEATs
  "loss": _LOSS,
  "optimizer": {
    "name": "adamw_all",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "multipliers": {"visual_encoder": 0.1},
    # Of the visual encoder its adapters learn.
    "frozen": (
      "audio_encoder",
      "visual_encoder",
      *(f"!swin_adapt_{place}_{layer}" for place in (1, 3) for layer in (0, 2)),
    ),
  },
  "schedule": {"epochs": 60},
}
_SEMANTIC = {"data": {"curriculum": ("v1s", "v2", "v1m")}}  # from easy to hard, appendix B.3
RECIPES = {"s4": (_PAPER,), "ms3": (_PAPER,), "avss": (_PAPER, _SEMANTIC), "tiny": ({"loss": _LOSS},)}
