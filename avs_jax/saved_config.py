"""A config file that reads what a run or a weight file has saved, so that flags change it as they change any other.

`run.py --mode=eval --workdir=RUN --config.eval.test_clips=2` means `--config=avs_jax/saved_config.py:workdir=RUN`.
"""

from typing import Any

from configs import common


def get_config(arg: str = "") -> Any:
  """`arg`: workdir=FOLDER of a run, or weights=FILE.safetensors with its config inside."""
  kind, _, path = arg.partition("=")
  if kind == "workdir":
    return common.from_workdir(path)
  from avs_jax import bundle

  return common.from_json(bundle.load(path)[1], path)
