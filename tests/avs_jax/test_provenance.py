"""A scoreboard says what it was measured with, and none is lost to one of other clips."""

import pytest

from avs_jax import provenance

RECORD = {"split": "test", "clips": 64}


@pytest.mark.parametrize(
  ("before", "kept"),
  [
    ('{"record": {"split": "val", "clips": 64}}', ["scoreboard_val_64.json"]),
    ('{"record": {"split": "test", "clips": 10}}', ["scoreboard_test_10.json"]),
    ('{"record": {"split": "test", "clips": 64}}', ["scoreboard.json"]),
    ('{"record": {"spl', ["scoreboard.json"]),
  ],
)
def test_only_a_scoreboard_of_other_clips_is_moved_away_and_a_broken_one_stops_nothing(
  tmp_path, before, kept
):
  (tmp_path / "scoreboard.json").write_text(before)
  provenance.keep_other(str(tmp_path), RECORD)
  assert [path.name for path in tmp_path.iterdir()] == kept
  assert (tmp_path / kept[0]).read_text() == before


def test_masks_that_no_run_has_saved_have_no_record(tmp_path):
  (tmp_path / "masks").mkdir()
  assert provenance.record_of_masks(str(tmp_path / "masks")) == {}
