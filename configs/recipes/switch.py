"""What flags may call otherwise than their config: the system, which brings its own settings, and the data set."""

from ml_collections import ConfigDict

from configs import common


def settle(config: ConfigDict) -> ConfigDict:
  """`config` with the settings that `config.model.system` has; after --config.model.system=NAME they differ.

  Settings that both systems have keep the config's values; its recipe stays. NAME.py:SYSTEM takes the paper's.
  `config.data.name` becomes the name used here (V1M: ms3).

  Raises:
    InputError: no data set is called so.
  """
  from data_pipelines.avsbench_index import data_name  # flags are understood without it

  config.data.name = data_name(config.data.name)
  name = config.model.system
  known = {key for settings in common.SYSTEMS.values() for key in settings}
  held = known & set(config.model.keys())
  if name not in common.SYSTEMS or held == set(common.SYSTEMS[name]):
    return config
  kept = {key: config.model[key] for key in held & set(common.SYSTEMS[name])}
  common.select_system(config, name)
  with config.unlocked():
    config.model.update(kept)
  return config
