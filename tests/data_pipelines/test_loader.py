"""Batches: a pure function of seed and number, whoever makes them; every clip once in evaluation."""

import dataclasses
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from avs_jax.errors import InputError
from avs_jax.types import Batch, Condition
from data_pipelines.audio import clip_log_mel
from data_pipelines.generated import Generated
from data_pipelines.loader import BrokenClips, check_state, eval_batches, identity, iterate, train_batches
from data_pipelines.negatives import OFFSCREEN, POSITIVE, Negatives
from data_pipelines.noising import Augment

CLIPS = 12


def small(split="train", clips=CLIPS, **settings):
  return Generated("single", split, clips, size=16, seconds=2, **settings)


def equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class Broken(Generated):
  """Generated clips of which some cannot be read."""

  def __init__(self, *bad, clips=CLIPS, split="train"):
    super().__init__("single", split, clips, size=16, seconds=2)
    self.bad = set(bad)

  def clip(self, index):
    if index in self.bad:
      raise InputError(f"{self.ids[index]}.png: truncated; copy it again.")
    return super().clip(index)


class Changed(Generated):
  """Generated clips with some fields replaced."""

  fields: dict = {}

  def clip(self, index):
    clip = super().clip(index)
    made = {name: value(clip) if callable(value) else value for name, value in self.fields.items()}
    return dataclasses.replace(clip, **made)


def changed(**fields):
  source = Changed("single", "train", CLIPS, size=16, seconds=2)
  source.fields = fields
  return source


def test_a_batch_may_hold_one_clip():
  batches = iterate(train_batches(small(), batch=1, seed=0), 0, threads=1, workers=0)
  assert len({int(next(batches)["index"][0]) for _ in range(CLIPS)}) == CLIPS
  batches.close()


def test_a_training_batch_fills_the_batch_type():
  rows = train_batches(small(), batch=4, seed=0, negatives=Negatives(0.5), waveform=True)[0]
  batch = Batch(**rows)
  assert batch.frames.shape == (4, 2, 16, 16, 3) and batch.frames.dtype == np.uint8
  assert batch.log_mel.shape == (4, 2, 96, 64) and batch.log_mel.dtype == np.float32
  assert batch.masks.shape == (4, 2, 16, 16) and batch.masks.dtype == np.int32
  assert batch.annotated.shape == batch.present.shape == (4, 2)
  assert batch.condition.dtype == batch.index.dtype == np.int32
  assert batch.waveform.shape == (4, 2, 16_000) and batch.sounding.shape == (4, 2, 8)


def test_batch_k_is_the_kth_of_the_iterator_at_any_number_of_threads():
  batches = train_batches(small(), batch=4, seed=1, negatives=Negatives(0.5), augment=Augment())
  for threads in (0, 2):
    with iterate(batches, threads=threads) as running:
      for k in range(4):
        equal(next(running), batches[k])


def test_resuming_at_a_batch_gives_what_would_have_come():
  batches = train_batches(small(), batch=4, seed=1, negatives=Negatives(0.5))
  with iterate(batches, 5) as resumed:
    equal(next(resumed), batches[5])
    equal(next(resumed), batches[6])


def test_every_epoch_holds_every_clip_once_in_another_order():
  batches = train_batches(small(), batch=4, seed=2)
  epochs = [np.concatenate([batches[e * 3 + k]["index"] for k in range(3)]) for e in range(3)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(CLIPS))
  assert not np.array_equal(epochs[0], epochs[1])
  other = train_batches(small(), batch=4, seed=3)[0]["index"]
  assert not np.array_equal(other, epochs[0][:4])


def test_hosts_together_make_the_whole_batch():
  settings = {"batch": 4, "seed": 2, "negatives": Negatives(0.5), "augment": Augment()}
  whole = train_batches(small(), **settings)
  parts = [train_batches(small(), host=host, hosts=2, **settings) for host in range(2)]
  for k in range(2, 4):
    rows = {name: np.concatenate([part[k][name] for part in parts]) for name in whole[k]}
    order, place = np.argsort(rows["index"], kind="stable"), np.argsort(whole[k]["index"], kind="stable")
    equal({n: v[order] for n, v in rows.items()}, {n: v[place] for n, v in whole[k].items()})


def test_negatives_change_every_epoch_and_have_empty_masks_in_training():
  batches = train_batches(small(), batch=CLIPS, seed=0, negatives=Negatives(0.5))
  conditions = []
  for k in range(3):
    batch = batches[k]
    masked = batch["masks"].reshape(CLIPS, -1).any(1)
    np.testing.assert_array_equal(masked, batch["condition"] == POSITIVE)
    conditions.append(batch["condition"][np.argsort(batch["index"])])
  assert not np.array_equal(conditions[0], conditions[1])


def test_masks_of_negatives_stay_on_request():
  settings = {"batch": CLIPS, "seed": 0, "negatives": Negatives(1.0), "empty_masks": False}
  assert train_batches(small(), **settings)[0]["masks"].reshape(CLIPS, -1).any(1).all()


@pytest.mark.slow
def test_worker_processes_change_nothing():
  batches = train_batches(small(), batch=4, seed=1, negatives=Negatives(0.5))
  with iterate(batches, 2, workers=2) as running:
    for k in range(2, 5):
      equal({n: np.array(v) for n, v in next(running).items()}, batches[k])


@pytest.mark.slow
def test_a_broken_clip_in_a_worker_process_is_still_named():
  batches = eval_batches(Broken(2, split="test"), batch=4)
  with iterate(batches, workers=1) as running, pytest.raises(InputError, match="truncated"):
    next(running)


def test_the_memory_changes_nothing():
  settings = {"batch": 4, "seed": 1, "negatives": Negatives(0.5)}
  plain = train_batches(small(), **settings)
  for bound in (True, 0.1):
    kept = train_batches(small(), cache=bound, **settings)
    for k in (0, 1, 4, 0):
      equal(kept[k], plain[k])


def test_evaluation_shows_every_clip_once_in_order_and_pads_the_last_batch():
  batches = eval_batches(small("test", 5), batch=4, condition=Condition.POSITIVE)
  assert len(batches) == 2
  assert batches[0]["index"].tolist() == [0, 1, 2, 3] and batches[1]["index"].tolist() == [4, -1, -1, -1]
  padded = batches[1]
  assert not padded["present"][1:].any() and not padded["annotated"][1:].any()
  assert not padded["frames"][1:].any() and padded["condition"].tolist() == [0, 0, 0, 0]
  with iterate(batches) as running:
    assert [batch["index"][0] for batch in running] == [0, 4]


@pytest.mark.parametrize("condition", list(Condition))
def test_evaluation_keeps_the_masks_of_the_object_under_every_sound(condition):
  source, negatives = small("test", 6), Negatives(seed=3)
  batch = eval_batches(source, batch=6, condition=condition, negatives=negatives)[0]
  assert batch["condition"].tolist() == [condition] * 6
  for i in range(6):
    clip = source.clip(i)
    np.testing.assert_array_equal(batch["masks"][i], clip.masks)
    np.testing.assert_array_equal(batch["frames"][i], clip.frames)
    pair = negatives.pair(condition, -1, i, source)
    donor = source.sound(pair.donor) if condition == Condition.OFFSCREEN else None
    sound = negatives.substitute(clip.waveform, pair, -1, i, donor)
    np.testing.assert_array_equal(batch["log_mel"][i], clip_log_mel(sound, 2))


def test_hosts_together_evaluate_the_whole_batch():
  source = small("test", 7)
  whole = eval_batches(source, batch=4, condition=OFFSCREEN)
  parts = [eval_batches(source, batch=4, condition=OFFSCREEN, host=host, hosts=2) for host in range(2)]
  assert [len(part) for part in parts] == [2, 2]
  for k in range(2):
    equal({name: np.concatenate([part[k][name] for part in parts]) for name in whole[k]}, whole[k])


def test_an_unseen_sound_is_given_to_every_clip():
  wave = np.sin(np.arange(32_000) / 9).astype(np.float32)
  batch = eval_batches(small("test", 3), batch=3, condition=OFFSCREEN, sound=wave)[0]
  for log_mel in batch["log_mel"]:
    np.testing.assert_array_equal(log_mel, clip_log_mel(wave, 2))
  assert not batch["sounding"].any()


def test_clips_with_published_log_mels_only_work_under_every_sound():
  published = changed(log_mel=lambda clip: clip_log_mel(clip.waveform, 2) + 1, waveform=None, sounding=None)
  rows = [eval_batches(published, batch=2, condition=condition)[0] for condition in Condition]
  np.testing.assert_array_equal(rows[0]["log_mel"][0], published.clip(0).log_mel)
  np.testing.assert_allclose(rows[1]["log_mel"], np.log(0.01), rtol=1e-6)
  donor = Negatives().pair(OFFSCREEN, -1, 0, published).donor
  np.testing.assert_array_equal(rows[3]["log_mel"][0], published.clip(donor).log_mel)
  with pytest.raises(InputError, match="raw sound"):
    eval_batches(published, batch=1, waveform=True)[0]
  with pytest.raises(InputError, match="as_published needs the sounds"):
    eval_batches(published, batch=1, condition=OFFSCREEN, front_end="as_published")[0]


def test_a_clip_without_sound_and_log_mel_is_refused():
  with pytest.raises(InputError, match="neither sound nor log-mel"):
    eval_batches(changed(waveform=None), batch=1)[0]


def test_padding_seconds_have_zero_log_mels():
  first = np.array([True, False])
  batch = eval_batches(changed(present=first, annotated=first), batch=1)[0]
  assert batch["log_mel"][0, 0].any() and not batch["log_mel"][0, 1].any()


def test_frames_and_masks_come_in_the_asked_size():
  batch = train_batches(small(), batch=2, seed=0, size=24)[0]
  assert batch["frames"].shape == (2, 2, 24, 24, 3) and batch["masks"].shape == (2, 2, 24, 24)
  assert set(np.unique(batch["masks"])) == {0, 1}


def test_a_broken_clip_is_named_and_replaced_by_the_next(caplog):
  source = Broken(4)
  with caplog.at_level(logging.WARNING):
    batches = train_batches(source, batch=CLIPS, seed=0)
    index = batches[0]["index"]
  assert sorted(index) == sorted([*set(range(CLIPS)) - {4}, 5])
  assert source.ids[4] in caplog.text and "truncated" in caplog.text
  equal(train_batches(Broken(4), batch=CLIPS, seed=0)[0], batches[0])


def test_more_than_one_percent_of_broken_clips_ends_training():
  with pytest.raises(InputError, match=r"2 of 12 clips cannot be read .* more than 1%"):
    train_batches(Broken(4, 7), batch=CLIPS, seed=0)[0]


def test_one_clip_of_a_tiny_split_is_let_pass_and_said_to_be_more_than_one_percent(caplog):
  with caplog.at_level(logging.WARNING):
    train_batches(Broken(4), batch=CLIPS, seed=0)[0]
  assert "that is 1 of 12 clips, more than 1 %; in so small a split one is let pass" in caplog.text


def test_copies_in_other_processes_count_together_and_leave_no_file():
  here = BrokenClips(5)
  assert here.add(4) == (True, [4])
  one, other = (pickle.loads(pickle.dumps(here)) for _ in range(2))
  assert one.add(1) == (True, [1, 4]) and other.add(3) == (True, [1, 3, 4])
  assert one.add(1) == (False, [1, 3, 4]) and here.add(0) == (True, [0, 1, 3, 4])
  path = Path(here.path)
  assert path.stat().st_size == 5
  del here
  assert not path.exists()
  assert one.add(2) == (True, [1, 2, 3, 4])


@pytest.mark.slow
def test_worker_processes_do_not_replace_one_percent_each():
  first, second = (int(train_batches(small(), batch=1, seed=1)[k]["index"][0]) for k in range(2))
  assert (
    abs(first - second) > 1
  )  # or the one would be replaced by the other, which a worker alone would notice
  with (
    iterate(train_batches(Broken(first, second), batch=1, seed=1), threads=1, workers=2) as running,
    pytest.raises(InputError, match="2 of 12 clips cannot be read"),
  ):
    for _ in range(4):  # the first batch is one worker's, the second the other's
      next(running)


def test_a_split_of_one_broken_clip_ends_training():
  with pytest.raises(InputError, match="not one of the 1 clips"):
    train_batches(Broken(0, clips=1), batch=1, seed=0)[0]


def test_a_broken_donor_is_replaced_by_another_draw(caplog):
  negatives = Negatives(1.0, silence=0, noise=0)
  whole = small()
  donor = negatives.draw(0, 0, whole).donor
  source = Broken(donor)
  with caplog.at_level(logging.WARNING):
    batch = train_batches(source, batch=CLIPS, seed=0, negatives=negatives)[0]
  assert source.ids[donor] in caplog.text and donor not in batch["index"]


def test_evaluation_refuses_a_broken_clip():
  batches = eval_batches(Broken(2, split="test"), batch=4)
  with pytest.raises(InputError, match="truncated"):
    batches[0]
  with iterate(batches) as running, pytest.raises(InputError, match="truncated"):
    next(running)


@pytest.mark.parametrize(
  ("make", "word"),
  [
    (lambda: train_batches(small(), batch=3, seed=0, hosts=2), "3 clips cannot be shared by 2 hosts"),
    (lambda: eval_batches(small(), batch=0), "0 clips"),
    (lambda: train_batches(small(), batch=2, seed=-1), "seed"),
    (lambda: iterate(eval_batches(small(), batch=1), -1), "start_step"),
    (lambda: train_batches(small(clips=1), batch=1, seed=0, negatives=Negatives(0.1)), "no clip can lend"),
  ],
)
def test_a_wrong_setting_is_named_before_anything_is_read(make, word):
  with pytest.raises(InputError, match=word):
    make()


def test_the_state_is_refused_where_batches_would_differ_and_nowhere_else():
  about = identity(small(), 4, 7)
  state = {**about, "next_index": 1}  # as a checkpoint keeps it
  check_state(state, about)
  check_state(state, {**about, "workers": 3, "hosts": 2})
  for source, batch, seed, word in [
    (small(), 4, 8, "another seed"),
    (small(), 8, 7, "another batch size"),
    (small(clips=13), 4, 7, "another number of clips"),
    (small(seed=1), 4, 7, "other clips"),
    (Generated("multi", "train", CLIPS), 4, 7, "another data set"),
  ]:
    with pytest.raises(InputError, match=word):
      check_state(state, identity(source, batch, seed))
