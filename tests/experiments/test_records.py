"""A record comes back as it was written, small and readable."""

import numpy as np
import pytest

from avs_jax.errors import InputError
from experiments import records


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
