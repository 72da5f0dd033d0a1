"""Three contrasts on three systems, each with the half it needs."""

import pytest

from avs_jax.errors import InputError
from experiments import debias, run, study
from experiments.study import Row, Study


def test_every_row_differs_from_vanilla_in_its_contrast_alone():
  found = debias.get_study()
  configs = {row.name: study.configure(row, 0).to_dict() for row in found.rows}
  assert len(configs) == 15
  for name, config in configs.items():
    system, way = name.split("-")
    vanilla = configs[f"{system}-vanilla"]
    assert {key for key in config if config[key] != vanilla[key]} <= {"title", "debias"}
    expected = {"vanilla": "none", "deaf": "visual_only"}.get(way, way)
    assert config["debias"] == {**vanilla["debias"], "contrast": expected}


def test_an_ensemble_gets_the_run_of_its_own_seed_and_the_record_forgets_where_that_was(tmp_path):
  found = debias.get_study()
  runs = run.plan(found, (0, 2), str(tmp_path), str(tmp_path), ["avsbench-*"])
  asked = {each.name: each.config.debias.contrast_run for each in runs if each.config.debias.contrast_run}
  assert asked == {f"avsbench-ensemble-{seed}": f"{tmp_path}/avsbench-deaf-{seed}" for seed in (0, 2)}
  from experiments import records

  assert not any("contrast_run" in key for key in records.settings(runs[0].config))


def test_partners_stand_before_the_rows_that_need_them():
  with pytest.raises(InputError, match="the partner of row b must be a row that stands before it"):
    Study("s", "S", (Row("b", "x.py", partner="a"), Row("a", "x.py")))


def test_printed_lines_are_the_papers_in_per_cent():
  table = debias.get_study().tables[0]
  assert len(table.paper) == len(table.lines) == 12
  last = table.paper[-1]
  assert last.labels == ("active queries", "uncertainty") and last.own == pytest.approx((67.22, 80.8))


def test_unknown_data_is_one_sentence():
  with pytest.raises(InputError, match="experiments/debias.py:s4: there is no such data; choose generated"):
    debias.get_study("s4")


def test_records_that_still_hold_where_the_other_half_was_are_of_the_same_settings():
  from experiments import records

  config = study.configure(debias.get_study().rows[0], 0)
  record = {"settings": {**records.settings(config), "debias.contrast_run": "elsewhere"}}
  assert records.differences(record, config) == []
