"""Half a minute on a CPU with generated clips: what tests and notebooks run. No figure of it means anything.

python run.py --config=configs/tiny.py --workdir=runs/tiny
"""

from ml_collections import ConfigDict

from configs import common

SMALL = {
  "width": 16,
  "num_queries": 8,
  "generator_layers": 1,
  "perception_layers": 1,
  "encoder_layers": 1,
  "decoder_layers": 1,
  "groups": (6, 3, 2),
  "merge_layers": 1,
}


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: name of a system, default avsbench."""
  config = common.get_config()
  if arg:
    common.select_system(config, arg)
  config.title = "tiny"
  config.data.name = "s4"
  config.data.root = ""  # not AVS_DATA_ROOT: this recipe is made for the stand-in
  config.data.size = 32
  config.data.clips = ConfigDict({"train": 16, "val": 4, "test": 4})
  config.model.visual = "conv_pyramid"
  config.model.visual_args = ConfigDict({"width": 4})
  config.model.audio_args = ConfigDict({"width": 1 / 32})
  for key, value in SMALL.items():
    if key in config.model.keys():  # noqa: SIM118  pyright does not know ConfigDict's `in`
      config.model[key] = value
  common.follow_paper(config, "tiny")
  config.optimizer.frozen = ()
  config.optimizer.lr = 1e-3
  config.schedule.epochs = 2
  config.eval.pictures = 1
  config.log.every_steps = 2
  return config.lock()
