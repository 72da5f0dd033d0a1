"""RAVS's ablations: rows are configs that differ as they say, and the kinds of clips have columns of their own."""

import copy

import pytest

from avs_jax import losses
from avs_jax.errors import InputError
from experiments import ravs, tables
from experiments.study import configure


@pytest.mark.parametrize("arg", ravs.SETTINGS)
def test_every_row_is_a_config_of_ravs(arg):
  study = ravs.get_study(arg)
  for row in study.rows:
    config = configure(row, 1)
    assert config.model.system == "ravs" and config.seed == 1
    assert losses.settings(config.loss.to_dict())["soft_iou"] == 1.0
  assert ("mono" in {row.name for row in study.rows}) == (arg in ("generated", "real_media"))


def test_rows_differ_in_what_they_take_away():
  study = ravs.get_study()
  chosen = {row.name: configure(row, 0) for row in study.rows}
  base, whole = chosen["baseline"], chosen["whole"]
  assert (base.model.merge, base.model.temporal, base.loss.alignment) == ("cells", False, 0.0)
  assert (whole.model.merge, whole.model.temporal, whole.loss.alignment) == ("groups", True, 0.1)
  assert chosen["gtf"].loss.alignment_truth and not whole.loss.alignment_truth
  assert chosen["ama"].model.uncertainty_form == "none" and whole.model.uncertainty_form == "paper"
  assert (chosen["sgsm"].model.merge_of, chosen["sgsm_seen"].model.merge_of) == ("heard", "seen")
  assert tuple(chosen["groups_5_5_5"].model.groups) == (5, 5, 5)
  assert whole.model.stereo and not chosen["mono"].model.stereo and whole.data.name == "vpo_msmi"


def test_unknown_data_are_named():
  with pytest.raises(InputError, match="there is no such data; choose generated"):
    ravs.get_study("nowhere")


def record(row, seed, own, switch, pair):
  def figures(iou):
    return {"iou_frame": iou, "f_max_batch20": iou + 0.1}

  names = {"positive": own, "positive_switch": switch, "positive_pair": pair}
  return {
    "row": row, "seed": seed, "data_set": "made (stand-in)", "is_stand_in": True, "split": "test", "clips": 3,
    "figures": {name: figures(iou) for name, iou in names.items() if iou is not None}, "global": {},
  }  # fmt: skip


RECORDS = {
  "ama": [record("ama", seed, 0.5, 0.4, 0.6) for seed in (0, 1)],
  "whole": [record("whole", 0, 0.55, 0.5, 0.6), record("whole", 1, 0.52, 0.44, 0.5)],
}


def test_kinds_have_columns_of_their_own_below_the_printed_lines():
  study = ravs.get_study()
  header, rows, notes = tables.build(study.tables[0], RECORDS)
  assert header[2:4] == ["own iou_frame", "own f_max_batch20"] and "two of a kind iou_frame" in header
  printed = [row for row in rows if "printed" in row[0]]
  assert len(printed) == 5 and printed[0][1:4] == ["Baseline", "59.8", "68.7"] and printed[0][4] == "–"
  ours = {row[1]: dict(zip(header, row, strict=True)) for row in rows if row[0].endswith("ours")}
  assert ours["+SGSM+CST (AMA)"]["switching iou_frame"] == "40.0 ± 0.0"
  assert "Not run: baseline, gtf, sgsm, sgsm_seen, discount, mono." in notes
  assert all(len(row) == len(header) for row in rows)


def test_a_claim_counts_the_seeds_that_gain_on_each_kind():
  study = ravs.get_study()
  table = next(table for table in study.tables if table.name == "claim_uncertainty")
  header, rows, _ = tables.build(table, RECORDS)
  line = dict(zip(header, rows[0], strict=True))
  assert line["row"] == "whole"
  assert (
    line["switching: gained iou_frame"].startswith("7.0") and line["switching: seeds that gain"] == "2 of 2"
  )
  assert line["two of a kind: seeds that gain"] == "0 of 2"
  assert "against the row ama" in " ".join(tables.notes_of(table, RECORDS))


def test_records_without_kinds_leave_dashes():
  alone = copy.deepcopy(RECORDS)
  for some in alone.values():
    for each in some:
      del each["figures"]["positive_pair"]
  header, rows, _ = tables.build(ravs.get_study().tables[0], alone)
  ours = [dict(zip(header, row, strict=True)) for row in rows if row[0].endswith("ours")]
  assert {line["two of a kind iou_frame"] for line in ours} == {"–"}
