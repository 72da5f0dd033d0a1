"""A study goes on where it was stopped, names what failed, and makes its tables from records alone."""

import json
import logging
import types

import pytest

from avs_jax import train as training
from avs_jax.errors import InputError
from experiments import figures, records, run, study

DRAW_ALL = figures.draw_all


@pytest.fixture
def command(study_file, tmp_path):
  """command(*more) runs the study of the fixture in a temporary folder."""

  def call(*more: str) -> int:
    return run.main([
      f"--study={study_file}", f"--workdir={tmp_path / 'runs'}", f"--records={tmp_path / 'records'}",
      f"--output={tmp_path / 'out'}", "--seeds=0,1", *more,
    ])  # fmt: skip

  return call


def test_a_failing_run_is_named_at_the_end_and_the_others_go_on(command, instant, tmp_path, capsys):
  assert command() == 1
  assert instant == [(f"{row}, seed {seed}", seed) for seed in (0, 1) for row in ("prior", "guide")]
  said = capsys.readouterr()
  assert "FAILED wrong-0: InputError: eval.metric='nonsense'" in said.err and "FAILED wrong-1" in said.err
  assert "nonsense" in (tmp_path / "runs" / "wrong-0" / "error.txt").read_text()
  names = {path.name for path in (tmp_path / "records" / "tiny").iterdir()}
  assert names == {"prior-0.json", "prior-1.json", "guide-0.json", "guide-1.json"}


def test_tables_and_figures_are_made_from_records_alone(command, instant, monkeypatch, tmp_path):
  monkeypatch.setattr(figures, "draw_all", DRAW_ALL)
  command("--only=prior,guide")
  first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
  assert set(first) == {
    "runs.md", "comparison.md", "comparison.tex", "frontier.png", "four_sounds.png",
    "similarity_guide.png", *(f"{t}.{k}" for t in ("table_2", "table_4", "table_5", "frontier") for k in ("md", "tex")),
  }  # fmt: skip
  for name in ("runs", "out"):
    (tmp_path / name).rename(tmp_path / f"{name}.away")
  instant.clear()
  assert command("--tables-only") == 0
  assert instant == []
  again = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
  assert {name: text for name, text in again.items() if not name.endswith(".png")} == {
    name: text for name, text in first.items() if not name.endswith(".png")
  }
  assert set(again) == set(first)


def test_a_page_holds_all_tables_with_their_commands_and_is_renewed_in_place(command, instant, tmp_path):
  page = tmp_path / "results.md"
  page.write_text("# Results\n\nWords.\n")
  command("--only=prior", f"--into={page}")
  once = page.read_text()
  assert once.startswith("# Results\n\nWords.\n\n<!-- study tiny -->\n\n## Tiny study")
  assert "### T table_2" in once and "--seeds=0,1 --only=prior" in once
  page.write_text(once + "After.\n")
  command("--only=prior,guide", f"--into={page}")
  again = page.read_text()
  assert again.count("<!-- study tiny -->") == 1 and again.endswith("<!-- end of study tiny -->\nAfter.\n")
  assert "--seeds=0,1 --only=prior,guide" in again
  page.write_text(again.replace("<!-- end of study tiny -->", ""))
  with pytest.raises(InputError, match="must both be there"):
    command("--tables-only", f"--into={page}")


def test_records_of_settings_that_the_study_no_longer_has_are_said(
  command, instant, tmp_path, monkeypatch, caplog
):
  command("--only=prior", "--seeds=0")
  path = tmp_path / "records" / "tiny" / "prior-0.json"
  path.write_text(path.read_text().replace('"steps": 4', '"steps": 5'))
  monkeypatch.setattr(run.log, "propagate", True)
  with caplog.at_level(logging.WARNING, logger=run.log.name):
    command("--tables-only")
  assert "prior-0 has other settings than the study: steps: 5, now 4" in caplog.text


def test_a_run_whose_record_is_of_the_same_config_is_skipped_and_of_another_is_not(command, instant, caplog):
  command("--only=prior")
  assert len(instant) == 2
  command("--only=prior")
  assert len(instant) == 2
  run.log.propagate = True
  with caplog.at_level(logging.WARNING, logger=run.log.name):
    command("--only=prior", '--set={"schedule": {"batch": 4}}')
  assert len(instant) == 4
  assert "schedule.batch: 2, now 4" in caplog.text
  assert "which is now" in caplog.text  # the old work directory was moved away, not trained on


def test_a_run_that_another_study_has_made_is_not_made_again(command, instant, study_file, tmp_path):
  command("--only=prior", "--seeds=0")
  (tmp_path / "records" / "tiny" / "notes.json").write_text("no record")
  command("--only=prior,guide", f"--study={study_file}:other")
  assert instant == [("prior, seed 0", 0), ("guide, seed 0", 0), ("prior, seed 1", 1), ("guide, seed 1", 1)]
  theirs, ours = (
    records.read(str(tmp_path / "records" / study / "prior-0.json")) for study in ("tiny", "other")
  )
  assert theirs["study"] == "tiny" and ours == {**theirs, "study": "other"}


def test_a_setting_that_changes_no_figure_or_is_newer_than_the_record_makes_no_difference(
  command, instant, study_file, tmp_path
):
  command("--only=prior", "--seeds=0")
  row = study.load(str(study_file)).row("prior")
  config = study.configure(row, 0)
  record = records.make("tiny", "prior", config, str(tmp_path / "runs" / "prior-0"), 1.0)
  with config.unlocked():
    config.eval.pictures, config.warmup.folder, config.log.keep, config.title = 0, "/elsewhere", 9, "x"
  assert records.differences(record, config) == []
  del record["settings"]["debias.guide_weight"]  # as if the record were older than this setting
  assert records.differences(record, config) == []
  with config.unlocked():
    config.debias.guide_weight = 0.5
  assert records.differences(record, config) == ["debias.guide_weight: 1.0, now 0.5"]


def test_a_stopped_run_ends_the_command_and_its_seconds_are_kept(command, instant, monkeypatch, tmp_path):
  whole = training.train

  def stopped(config, workdir):
    raise SystemExit(0)

  monkeypatch.setattr(training, "train", stopped)
  with pytest.raises(SystemExit):
    command("--only=prior", "--seeds=0")
  kept = tmp_path / "runs" / "prior-0" / "seconds.json"
  kept.write_text(json.dumps({"seconds": 100.0 + json.loads(kept.read_text())["seconds"]}))
  monkeypatch.setattr(training, "train", whole)
  assert command("--only=prior", "--seeds=0") == 0
  record = records.read(str(tmp_path / "records" / "tiny" / "prior-0.json"))
  assert record["wall_s"] >= 100


def test_no_further_run_is_started_when_the_minutes_are_over(command, instant, monkeypatch):
  monkeypatch.setattr(run, "time", types.SimpleNamespace(monotonic=lambda: 61.0 * len(instant)))
  command("--only=prior,guide", "--minutes=1")
  assert instant == [("prior, seed 0", 0)]
  command("--only=prior,guide", "--minutes=1")
  assert instant == [("prior, seed 0", 0), ("guide, seed 0", 0)]


def test_what_would_be_run_can_be_listed(command, instant, capsys):
  command("--only=prior", "--seeds=0")
  capsys.readouterr()
  assert command("--list", "--only=prior,guide") == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines == ["prior-0: done", "guide-0: to be run", "prior-1: to be run", "guide-1: to be run"]


def test_the_time_left_is_that_of_the_same_row_with_another_seed(command, instant, study_file, tmp_path):
  command("--only=prior,guide", "--seeds=0")
  for name, seconds in (("prior", 10.0), ("guide", 30.0)):
    path = tmp_path / "records" / "tiny" / f"{name}-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "wall_s": seconds}))
  runs = run.plan(study.load(str(study_file)), [0, 1], str(tmp_path / "runs"), str(tmp_path / "records"))
  due = [each for each in runs if each.seed == 1]
  assert run.remaining(due, runs) == pytest.approx(10 + 30 + 20)
  assert run.remaining(due, due) is None


@pytest.mark.parametrize(
  ("words", "sentence"),
  [
    (["--seeds=a"], "--seeds=a is not a list of whole numbers"),
    (["--set=[1]"], "--set=\\[1\\] is no JSON object"),
    (['--set={"nonsense": 1}'], "row prior: variants.changes.nonsense: the config has no such key"),
    (["--only=x*"], "--only=x\\* fits no row"),
    (["--tables-only"], "holds no record of study tiny"),
  ],
)
def test_a_wrong_flag_is_one_sentence(command, words, sentence):
  with pytest.raises(InputError, match=sentence):
    command(*words)


def test_a_missing_study_is_one_sentence_and_status_2(capsys):
  assert run.run(["--study=experiments/nowhere.py"]) == 2
  assert "experiments/nowhere.py is not there" in capsys.readouterr().err


@pytest.mark.slow
def test_a_guided_run_is_trained_judged_and_recorded_whole(study_file, tmp_path):
  status = run.main([
    f"--study={study_file}", f"--workdir={tmp_path / 'runs'}", f"--records={tmp_path / 'records'}",
    f"--output={tmp_path / 'out'}", "--seeds=0", "--only=guide",
  ])  # fmt: skip
  assert status == 0
  record = records.read(str(tmp_path / "records" / "tiny" / "guide-0.json"))
  assert set(record["figures"]) == {"positive", "silence", "noise", "offscreen", "unseen_thunder"}
  assert record["similarity"]["before"]["sounds"]["noise"]["mean"] != 0
  assert record["similarity"]["after"]["scale"] == "cosine"
  assert sum(record["similarity"]["after"]["sounds"]["positive"]["counts"]) == 6
  point = record["frontier"]["operating"]
  assert point["iou_frame"] == pytest.approx(record["figures"]["positive"]["iou_frame"], abs=1e-4)
  assert point["g_fpr"] == pytest.approx(record["global"]["g_fpr"], abs=1e-4)
  assert len(record["pictures"]) == 1 and len(record["frontier"]["gate"]) > 2
  assert (tmp_path / "out" / "four_sounds.png").stat().st_size > 5000
  assert (tmp_path / "records" / "tiny" / "guide-0.json").stat().st_size < 40_000


@pytest.mark.parametrize("file", ["robust.py:s4", "robust.py:ms3", "sdavs.py:ms3", "ravs.py:ms3"])
def test_a_study_of_a_published_data_set_does_not_run_on_a_stand_in(file, tmp_path):
  found = study.load(f"experiments/{file}")
  runs = run.plan(found, [0], str(tmp_path), str(tmp_path))
  with pytest.raises(
    InputError, match=rf"study {found.name} is for (S4|MS3), and data.root is empty; set AVS_"
  ):
    run.train_all(found, runs, str(tmp_path))
  assert not any(tmp_path.iterdir())
  assert study.load("experiments/robust.py").data_set == ""
