"""A record comes back as it was written, small and readable."""

from pathlib import Path

import numpy as np
import pytest

from avs_jax.errors import InputError
from configs import ms3
from experiments import records, study

RECORDS = Path(__file__).parents[2] / "docs" / "records"


def test_masks_survive_as_text():
  mask = np.random.default_rng(0).random((9, 13)) > 0.5
  np.testing.assert_array_equal(records.unpack(records.pack(mask), (9, 13)), mask)
  blob = np.zeros((128, 128), bool)
  blob[30:80, 40:90] = True
  assert len(records.pack(blob)) < 200


def test_a_record_is_read_back_and_lists_stay_on_their_line(tmp_path):
  record = {
    "format": records.FORMAT, "study": "s", "row": "a", "seed": 1, "settings": {"x": [1, 2]},
    "frontier": {"mask": [{"g_fpr": 0.123456789}]},
  }  # fmt: skip
  path = records.write(str(tmp_path), record)
  assert path == records.path_of(str(tmp_path), "s", "a", 1)
  text = open(path).read()  # noqa: SIM115
  assert '"mask": [{"g_fpr": 0.123457}]' in text and len(text.splitlines()) < 14
  assert records.read(path)["settings"] == {"x": [1, 2]}


def test_a_broken_record_or_one_of_another_format_is_one_sentence(tmp_path):
  path = tmp_path / "a-0.json"
  assert records.read(str(path)) is None
  for text in ('{"format": 1', '{"format": 99}', "[]"):
    path.write_text(text)
    with pytest.raises(InputError, match="a-0.json is no record of this version"):
      records.read(str(path))


def test_a_run_without_a_scoreboard_leaves_no_record(tmp_path):
  with pytest.raises(InputError, match="no scoreboard there"):
    records.make("s", "a", None, str(tmp_path), 1.0)


def test_a_record_made_on_a_stand_in_is_not_of_a_config_with_a_data_set():
  config = ms3.get_config()
  record = {
    "settings": {**records.settings(config), "loss.name": "ms3"}, "is_stand_in": True,
    "data_set": "generated multi-source clips (stand-in)",
  }  # fmt: skip
  assert records.differences(record, config) == []
  of_before = {name: value for name, value in record["settings"].items() if name != "data.root"}
  assert records.differences({**record, "settings": of_before}, config) == []
  with config.unlocked():
    config.data.root = "/data/avsbench"
  for settings in (record["settings"], of_before):
    found = records.differences({**record, "settings": settings}, config)
    assert found == ["data.root: False, now True"]
  layout = {"settings": of_before, "is_stand_in": True, "data_set": "clips (stand-in), in the layout of MS3"}
  assert records.differences(layout, config) == []
  assert records.differences({"settings": of_before, "is_stand_in": False, "data_set": "MS3"}, config) == []


def test_a_setting_is_compared_with_the_digits_that_a_record_keeps(tmp_path):
  config = ms3.get_config()
  with config.unlocked():
    config.model.audio_args.width = 1 / 14
  record = {
    "format": records.FORMAT, "study": "s", "row": "a", "seed": 0, "settings": records.settings(config),
    "is_stand_in": True,
  }  # fmt: skip
  kept = records.read(records.write(str(tmp_path), record))
  assert kept["settings"]["model.audio_args.width"] == 0.0714286
  assert records.differences(kept, config) == []
  assert records.find(str(tmp_path), config) == kept


def test_what_was_run_on_what_is_told_of_every_sitting_and_nothing_is_made_up():
  facts = {"hardware": "1 x cpu", "commit": "abc", "versions": {"jax": "1.2"}, "wall_s": 90.0}
  later = {**facts, "commit": "def", "wall_s": 30.0}
  found = {
    "plain": [{"seed": 0, **facts}, {"seed": 1, **later}],
    "sat": [{"seed": 0, "sittings": [facts, later]}],
    "resumed": [{"seed": 0, "sittings": [{"sounds": ["positive"]}, later]}, {"seed": 1, **later}],
    "old": [{"seed": 2}],
  }
  assert records.runs_table((*found, "absent"), found)[2:] == [
    "| plain | 0, 1 | 1.0 ± 0.7 | 1 x cpu | abc; def | jax 1.2 |",
    "| sat | 0 | 2.0 | 1 x cpu | abc; def | jax 1.2 |",
    "| resumed | 0, 1 | – | 1 x cpu; – | def; – | jax 1.2; – |",
    "| old | 2 | – | – | – | – |",
    "| absent | not run | – | – | – | – |",
  ]


# Noise and analysis keep what they found in runs that another study has trained.
OF_OTHERS = ("noise_", "analysis_")
TRAINED = sorted(path for path in RECORDS.glob("*/*.json") if not path.parent.name.startswith(OF_OTHERS))


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_record_is_of_its_studys_config(path):
  record = records.read(str(path))
  name, _, arg = record["study"].partition("_")
  row = study.load(f"{RECORDS.parent.parent}/experiments/{name}.py:{arg}").row(record["row"])
  assert records.differences(record, study.configure(row, record["seed"])) == []
