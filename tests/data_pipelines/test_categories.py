"""The category tables are whole and use the four groups."""

from data_pipelines import categories


def test_the_tables_have_the_published_number_of_names_in_four_groups():
  assert (len(categories.S4), len(categories.MS3)) == (23, 22)
  assert len(categories.AVSS) == 71 and "background" in categories.AVSS
  for table in (categories.S4, categories.MS3, categories.AVSS):
    assert set(table.values()) == {"music", "human", "animal", "device"}
