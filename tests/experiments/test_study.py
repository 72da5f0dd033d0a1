"""A study says at once what it cannot be."""

import pytest

from avs_jax.errors import InputError
from experiments import robust, study
from experiments.study import Line, Row, Study, Table


def test_a_run_has_the_files_config_the_rows_changes_and_the_seed(study_file):
  found = study.load(f"{study_file}:other")
  assert found.name == "other"
  config = study.configure(found.row("guide"), 2)
  assert (config.negatives.fraction, config.debias.guide, config.seed) == (0.5, "cosine", 2)
  assert config.steps == 4 and config.is_locked and not config.variants
  assert config.title == "guide, seed 2"


def test_of_several_changes_the_later_win(study_file):
  row = Row(
    "a", study.load(str(study_file)).rows[0].config, ({"steps": 5, "data": {"size": 16}}, {"steps": 6})
  )
  config = study.configure(row, 0)
  assert (config.steps, config.data.size) == (6, 16)


def test_rows_need_names_of_their_own_and_tables_rows_that_are_there():
  with pytest.raises(InputError, match="rows need names, each its own"):
    Study("s", "S", (Row("a", "x.py"), Row("a", "y.py")))
  table = Table("t", "T", "globals", ("x",), (Line(("b",), "b"),))
  with pytest.raises(InputError, match="there is no row 'b'; the rows are a"):
    Study("s", "S", (Row("a", "x.py"),), (table,))


def test_files_without_the_function_and_unknown_keys_are_one_sentence(study_file, tmp_path):
  (tmp_path / "empty.py").write_text("")
  with pytest.raises(InputError, match="empty.py has no function get_study"):
    study.load(str(tmp_path / "empty.py"))
  with pytest.raises(InputError, match="row a: .*nowhere.py is not there"):
    study.configure(Row("a", "nowhere.py"), 0)
  config = study.load(str(study_file)).rows[0].config
  with pytest.raises(InputError, match="row a: variants.changes.data.nonsense: the config has no such key"):
    study.configure(Row("a", config, ({"data": {"nonsense": 1}},)), 0)


@pytest.mark.parametrize("arg", robust.SETTINGS)
def test_every_row_of_the_robust_study_is_a_config_and_every_table_has_its_printed_lines(arg):
  found = robust.get_study(arg)
  configs = {row.name: study.configure(row, 1) for row in found.rows}
  for name, config in configs.items():
    assert config.model.system == name.split("-")[0]
    assert config.seed == 1 and len(config.eval.unseen) == 4
    hears_negatives = config.negatives.fraction > 0 or config.debias.decoys > 0
    assert hears_negatives != name.endswith("-prior")
    assert (config.debias.guide == "none") == (name.split("-")[1].split("_")[0] in ("prior", "negatives"))
    assert not name.endswith("cold") or config.warmup.steps == 0
  assert configs["avsbench-guide_warm"].debias.guide == "cosine"
  benchmark = "MS3" if "multi" in arg or arg == "ms3" else "S4"
  assert {config.data.name for config in configs.values()} == {benchmark.lower()}
  tables = {table.name: table for table in found.tables}
  expected = {
    "table_2",
    "table_4",
    "table_5" if benchmark == "S4" else "table_6",
    "table_9",
    "frontier",
    "refused",
    "parts",
  }
  if not arg.startswith("real_media"):
    expected |= {"table_3", "table_7", "table_8"}
  assert set(tables) == expected
  for name, table in tables.items():
    assert all(row.data == benchmark for row in table.paper)
    assert bool(table.paper) == (name not in ("frontier", "parts", "refused"))
    words = len(table.labels) + (table.form == "unseen")
    assert all(len(row.labels) <= words for row in table.paper), name
    assert all(len(line.labels) == len(table.labels) for line in table.lines), name


def test_unknown_data_is_one_sentence():
  with pytest.raises(InputError, match="experiments/robust.py:x: there is no such data; choose generated"):
    robust.get_study("x")
