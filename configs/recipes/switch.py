"""A flag may name another system than its config: the config then gets that system's settings."""

from ml_collections import ConfigDict

from configs import common


def settle(config: ConfigDict) -> ConfigDict:
  """`config` with the settings that `config.model.system` has; after --config.model.system=NAME they differ.

  Settings that both systems have keep the config's values; its recipe stays. NAME.py:SYSTEM takes the paper's.
  """
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
