"""VPO's config: three words in any order, direction where two of a kind need it."""

import pytest

from avs_jax.errors import InputError
from configs import common, vpo


@pytest.mark.parametrize("arg", ["ravs-ms-binary", "binary-ms-ravs", "ms-ravs-binary"])
def test_words_choose_system_subset_and_masks_in_any_order(arg):
  config = vpo.get_config(arg)
  assert (config.model.system, config.data.name, config.model.num_classes) == ("ravs", "vpo_ms", 1)
  assert not config.model.stereo and config.loss.alignment == 0.1 and config.eval.metric == "iou_dataset"


@pytest.mark.parametrize("system", common.SYSTEMS)
def test_two_of_a_kind_come_with_direction_and_classes(system):
  config = vpo.get_config(system)
  assert config.data.name == "vpo_msmi" and config.model.stereo and config.model.num_classes == 22
  assert (config.data.seconds, config.data.size) == (3, 224)
  assert system != "ravs" or config.loss.class_iou == 1.0


def test_an_unknown_word_or_two_of_a_sort_are_named():
  for arg, word in (("ravs-mono", "mono"), ("ss-ms", "ms")):
    with pytest.raises(InputError, match=f"'{word}' is unknown or one too many"):
      vpo.get_config(arg)
