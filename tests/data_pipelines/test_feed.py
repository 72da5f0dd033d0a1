"""From a config to batches: what they carry follows from what the model hears."""

import contextlib

import numpy as np
import pytest

from avs_jax.errors import InputError
from configs import tiny
from data_pipelines import feed
from data_pipelines.generated import Generated
from data_pipelines.negatives import NOISE


def config(**changes):
  made = tiny.get_config()
  for name, value in changes.items():
    section, key = name.split("__")
    (made[section] if key else made)[key or section] = value
  return made


def test_batches_carry_samples_only_where_something_hears_them():
  assert not feed.takes_waveform(config())
  assert feed.takes_waveform(config(model__audio="htsat"))
  assert feed.takes_waveform(config(model__audio="beats", noising__where="waveform"))
  assert feed.takes_waveform(config(marks__kind="classifier"))


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"noising__where": "log_mel"}, "noising.where=log_mel changes VGGish's log-mels, and model.audio=htsat"),
    ({"augment__mask_bands": 2}, "augment.mask_bands changes"),
    ({"augment__mask_frames": 2}, "augment.mask_frames changes"),
    ({"negatives__front_end": "as_published"}, "negatives.front_end=as_published changes"),
  ],
)
def test_changes_of_log_mels_are_refused_where_samples_are_heard(changes, words):
  with pytest.raises(InputError, match=words):
    feed.takes_waveform(config(model__audio="htsat", **changes))


def test_sounds_that_are_not_there_cannot_be_changed():
  class Published(Generated):
    def sound(self, index):
      raise InputError("only log-mels")

  source = Published("single", "train", 4, size=16, seconds=2)
  for changes in (
    {"noising__mix_snr_db": (0.0, 10.0)}, {"noising__where": "waveform"}, {"augment__gain_db": 3.0},
    {"augment__pitch": 0.05},
  ):  # fmt: skip
    (setting,) = changes
    with pytest.raises(
      InputError, match=rf"{setting.replace('__', '.')}.*: the sounds themselves are needed"
    ):
      feed.training(config(**changes), source)
  for changes in ({}, {"augment__mask_bands": 2}, {"noising__where": "log_mel"}):
    feed.training(config(**changes), source).close()


def test_a_first_clip_whose_sound_is_broken_is_no_proof_that_there_are_none():
  class Torn(Generated):
    def sound(self, index):
      if index == 0:
        raise InputError("clip0.wav: truncated")
      return super().sound(index)

  feed.training(config(augment__gain_db=3.0), Torn("single", "train", 4, size=16, seconds=2)).close()


def test_decoys_without_silence_or_noise_are_refused_by_their_own_name():
  changes = {
    "debias__decoys": 0.1,
    "negatives__silence": 0.0,
    "negatives__noise": 0.0,
    "negatives__offscreen": 1.0,
  }
  with pytest.raises(InputError, match="debias.decoys=0.1: decoys are silence and noise"):
    feed.decoys(config(**changes))


def test_decoys_are_in_the_form_that_the_audio_encoder_hears():
  source = Generated("single", "train", 4, size=16, seconds=2)
  decoys = {"debias__decoys": 0.5, "debias__guide": "localised"}
  for changes, shape in (
    ({}, (2, 96, 64)), ({"marks__kind": "classifier"}, (2, 96, 64)), ({"model__audio": "htsat"}, (2, 16_000)),
  ):  # fmt: skip
    with contextlib.closing(feed.training(config(**decoys, **changes), source)) as batches:
      assert next(batches)["decoy"].shape[1:] == shape


def test_an_evaluation_of_the_training_split_is_one_like_any_other():
  chosen = config(eval__split="train", negatives__tones=2, eval__negative_audio="any", seed__=3)
  pairs = feed.negative_pairs(chosen, training=False)
  assert pairs.seed == 2 * chosen.data.seed and pairs.guess and "tones" not in pairs.noise_kinds
  source = Generated("single", "train", 4, size=16, seconds=2)
  rows = [
    next(iter(feed.evaluation(config(seed__=seed, eval__split="train"), source, NOISE)))["log_mel"]
    for seed in (0, 3)
  ]
  np.testing.assert_array_equal(*rows)


def test_training_negatives_are_drawn_anew_each_epoch_or_once_and_those_of_the_warm_up_anew():
  source = Generated("single", "train", 40, size=16, seconds=2)
  for redraw in (True, False):
    chosen = config(negatives__fraction=0.5, negatives__redraw=redraw)
    pairs = feed.training_negatives(chosen)
    epochs = [[pairs.draw(epoch, i, source) for i in range(40)] for epoch in (0, 7)]
    assert (epochs[0] != epochs[1]) == redraw
    assert feed.nonsense(config(warmup__nonsense=0.2, negatives__redraw=redraw)).redraw


class Nameless(Generated):
  """Clips of which nothing is known."""

  def objects(self, index):
    return frozenset()


def test_training_with_off_screen_sounds_of_nameless_clips_is_refused_before_its_first_step():
  source = Nameless("multi", "train", 4, size=16, seconds=2)
  with pytest.raises(InputError, match="no clip names its objects"):
    feed.training(config(negatives__fraction=0.5, eval__negative_audio="any"), source)
  for changes in ({}, {"negatives__fraction": 0.5, "negatives__offscreen": 0.0}):
    feed.training(config(**changes), source).close()
