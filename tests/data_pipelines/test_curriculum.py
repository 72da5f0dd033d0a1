"""An epoch goes through the parts of the data one after the other, each shuffled anew in every epoch."""

import dataclasses

import numpy as np
import pytest

from avs_jax.errors import InputError
from configs import tiny
from data_pipelines import curriculum, feed
from data_pipelines.examples import Cached
from data_pipelines.generated import Generated
from data_pipelines.loader import identity, train_batches
from data_pipelines.sources import Limited

ORDER = ("v1s", "v2", "v1m")


@dataclasses.dataclass
class Listed:
  """A source of which only the parts are asked."""

  parts: tuple = ("v1m", "v1s", "v2", "v1s", "v1m", "v2", "v1s", "v1s", "v2", "v1m")
  title: str = "AVSS"
  is_stand_in: bool = False

  def __len__(self):
    return 10


def small(subset="semantic", clips=12):
  return Generated(subset, "train", clips, size=16, seconds=2)


def indices(order, epochs=3):
  length = len(order)
  endless = order.repeat(None)
  return [[int(endless[e * length + i]) for i in range(length)] for e in range(epochs)]


def test_each_epoch_has_every_clip_once_part_after_part_and_in_a_new_order():
  source = Listed()
  epochs = indices(curriculum.epoch(source, ORDER, seed=0), 4)
  for each in epochs:
    assert sorted(each) == list(range(10))
    assert [source.parts[i] for i in each] == ["v1s"] * 4 + ["v2"] * 3 + ["v1m"] * 3
  assert len({tuple(each[:4]) for each in epochs}) > 1
  assert epochs == indices(curriculum.epoch(source, ORDER, seed=0), 4)
  assert epochs != indices(curriculum.epoch(source, ORDER, seed=1), 4)


def test_without_names_all_clips_are_shuffled_together():
  for each in indices(curriculum.epoch(Listed(), (), seed=0)):
    assert sorted(each) == list(range(10))
    assert [Listed.parts[i] for i in each[:4]] != ["v1s"] * 4


def test_clips_of_one_object_are_a_stand_ins_easy_part(caplog):
  source = Cached(Limited(small(clips=14), 12))
  easy, none, hard = curriculum.split(source, ORDER)
  assert len(easy) and len(hard) and not len(none)
  assert all((len(source.objects(i)) == 1) == (i in easy) for i in range(12))
  assert "has no clips of v2" in caplog.text
  assert sorted([*easy, *hard]) == list(range(12))


def test_two_objects_of_a_kind_are_several():
  source = small("vpo_msmi", 40)
  pairs = [i for i in range(40) if "pair" in source.kinds(i)]
  assert any(len(source.objects(i)) == 1 for i in pairs)
  parts = curriculum.parts_of(source)
  assert {parts[i] for i in pairs} == {"v1m"}


def test_batches_follow_the_order_on_every_host():
  source = small()
  easy, hard = curriculum.split(source, ("v1s", "v1m"))
  whole = train_batches(source, batch=2, seed=3, parts=ORDER)
  seen = np.concatenate([whole[k]["index"] for k in range(12)]).reshape(2, 12)  # two epochs
  for each in seen:
    assert set(each[: len(easy)]) == set(easy) and set(each[len(easy) :]) == set(hard)
  hosts = [train_batches(source, batch=2, seed=3, parts=ORDER, host=h, hosts=2) for h in range(2)]
  np.testing.assert_array_equal(
    [[host[k]["index"][0] for host in hosts] for k in range(12)], seen.reshape(12, 2)
  )


@pytest.mark.parametrize(
  ("source", "names", "words"),
  [
    (Listed(), ("v1s", "v1s", "v2", "v1m"), "names a part twice"),
    (Listed(), ("v1s", "v2"), "AVSS has clips of v1m too; name every part"),
    (Listed(parts=(), title="MS3"), ORDER, "MS3 does not say which part its clips are of"),
  ],
)
def test_an_order_that_does_not_fit_the_data_is_refused(source, names, words):
  with pytest.raises(InputError, match=words):
    curriculum.epoch(source, names, seed=0)


def test_a_run_goes_on_in_its_own_order_only():
  source, config = small(), tiny.get_config()
  before = feed.state(config, source, 5)
  feed.check_state(config, source, before)
  older = {name: value for name, value in before.items() if name != "curriculum"}
  feed.check_state(config, source, older)  # saved before there was such an order
  assert older.items() >= identity(source, config.schedule.batch, config.seed).items()
  config.data.curriculum = ("v1s", "v1m")
  with pytest.raises(InputError, match="another order of the data's parts"):
    feed.check_state(config, source, before)
  feed.check_state(config, source, feed.state(config, source, 7))


def test_training_follows_the_config_and_the_warm_up_does_not():
  source, config = small(), tiny.get_config()
  config.data.curriculum, config.schedule.batch, config.warmup.batch = ("v1m", "v1s"), 1, 1
  hard = {i for i in range(12) if len(source.objects(i)) > 1}
  batches = feed.training(config, source)
  assert {int(next(batches)["index"][0]) for _ in hard} == hard
  batches.close()
  warm = feed.labelled(config, source)
  assert {int(next(warm)["index"][0]) for _ in hard} != hard
  warm.close()
