"""Each ablation of SDAVS is one setting, and stands beside its printed line."""

import pytest

from avs_jax.errors import InputError
from experiments import sdavs, study


@pytest.mark.parametrize("arg", sdavs.DATA)
def test_every_row_differs_from_the_whole_model_in_one_setting(arg):
  found = sdavs.get_study(arg)
  configs = {row.name: study.configure(row, 0) for row in found.rows}
  whole = configs.pop("whole").to_dict()
  assert whole["negatives"]["fraction"] == 0 and whole["debias"]["guide"] == "none"
  for name, config in configs.items():
    own = config.to_dict()
    assert {key for key in whole if whole[key] != own[key]} == {"title", "model"}, name
    assert len({key for key in whole["model"] if whole["model"][key] != own["model"][key]}) == 1, name


@pytest.mark.parametrize("arg", sdavs.DATA)
def test_the_train_of_table_nine_is_recorded_where_there_is_a_recording(arg):
  config = study.configure(sdavs.get_study(arg).row("whole"), 0)
  assert ("train" in config.eval.noise_mix.kind) == arg.startswith("real_media")
  assert ("made_train" in config.eval.noise_mix.kind) != arg.startswith("real_media")


def test_printed_lines_are_the_papers_and_every_row_has_one():
  assert set(sdavs.PRINTED) == set(sdavs.ROWS)
  tables = {table.name: table for table in sdavs.tables("MS3")}
  assert [row.own for row in tables["table_3"].paper] == [(70.7, 79.0), (69.1, 78.2), (72.3, 80.8)]
  assert all(row.digits == 1 for row in tables["table_8"].paper)
  assert len(tables["table_9"].paper) == 6
  assert sdavs.tables("S4")[0].paper[-1].own == (85.5, 92.0)


def test_unknown_data_is_one_sentence():
  with pytest.raises(InputError, match="experiments/sdavs.py:x: there is no such data; choose generated"):
    sdavs.get_study("x")
