"""Settings whose value cannot be meant end every command at its start."""

import pytest

from avs_jax import limits, settings, systems
from avs_jax.errors import InputError
from configs import common, tiny


def changed(**changes):
  """The tiny config with "section__key" settings."""
  config = tiny.get_config()
  config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
  return config


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"schedule__batch": 0}, r"schedule\.batch=0 must be at least 1\."),
    ({"log__keep": 0}, r"log\.keep=0 must be at least 1\."),
    ({"log__every_steps": 0}, r"log\.every_steps=0 must be at least 1\."),
    ({"eval__clips": -1}, r"eval\.clips=-1 must be at least 0; 0 takes all\."),
    ({"steps": -3}, r"steps=-3 must be at least 0\."),
    ({"model__width": 0}, r"model\.width=0 must be at least 1\."),
    ({"loss__bce": float("nan")}, r"loss\.bce=nan is no number"),
    ({"eval__conditions": ()}, r"eval\.conditions=\(\) must name at least one sound"),
    (
      {"eval__conditions": ("positive", "silent")},
      r"eval\.conditions: 'silent' is not a sound; choose from positive",
    ),
    (
      {"eval__conditions": ("Positive",)},
      r"eval\.conditions: 'Positive' is not a sound; choose from positive",
    ),
    ({"eval__conditions": ("noise", "noise")}, r"eval\.conditions=\('noise', 'noise'\) must .* none twice"),
  ],
)
def test_numbers_that_can_be_none_are_refused_by_name(changes, said):
  with pytest.raises(InputError, match=said):
    limits.check_values(changed(**changes))


def test_every_setting_that_has_a_least_value_is_one_of_a_system():
  known = set()
  for name in systems.NAMES:
    config = common.get_config()
    common.select_system(config, name)
    limits.check_values(config)
    known |= settings.flat(config.to_dict()).keys()
  assert known >= limits.LEAST.keys()
