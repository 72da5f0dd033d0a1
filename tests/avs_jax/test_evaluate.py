"""The scoreboard is a matter of the weights and the data alone."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import bundle, frontier, report, visualize
from avs_jax import evaluate as evaluation
from avs_jax import mesh as meshes
from avs_jax.checkpoint import load_variables
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from avs_jax.model import build_model, example_inputs
from avs_jax.types import Batch, Outputs
from configs import common
from data_pipelines.generated import Generated


def board(folder) -> dict:
  return json.loads((folder / "scoreboard.json").read_text())


def flat(figures: dict) -> dict[str, float]:
  return {
    f"{sound}/{name}": value
    for sound, row in figures.items()
    if sound != "record"
    for name, value in row.items()
    if isinstance(value, int | float)
  }


@pytest.fixture
def copy(finished, tmp_path):
  """A copy of the finished run without what the evaluation wrote."""
  folder = tmp_path / "copy"
  shutil.copytree(finished[1], folder)
  for name in ("scoreboard.json", "scoreboard.md", "scoreboard.tex", "manifest.csv"):
    (folder / name).unlink()
  shutil.rmtree(folder / "pictures")
  return folder


def test_evaluating_the_folder_alone_gives_the_trainings_scoreboard_to_the_digit(finished, devices, copy):
  evaluation.evaluate(common.from_workdir(str(copy)), str(copy))
  ours, theirs = board(copy), board(finished[1])
  assert flat(ours) == flat(theirs)
  assert len(flat(ours)) > 40
  assert ours["record"]["weights_digest"] == theirs["record"]["weights_digest"]
  assert (copy / "manifest.csv").read_bytes() == (finished[1] / "manifest.csv").read_bytes()
  assert (copy / "pictures" / "four_sounds_0.png").stat().st_size > 5000


def test_the_size_of_the_batch_and_the_devices_change_no_figure(finished, devices, copy):
  config = finished[0].copy_and_resolve_references()
  config.eval.batch, config.eval.pictures = 3, 0
  devices(3)
  evaluation.evaluate(config, str(copy))
  ours, theirs = flat(board(copy)), flat(board(finished[1]))
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    assert ours[name] == pytest.approx(value, abs=2e-4), name  # a pixel of 6144 may fall on the other side


def test_only_so_many_clips_are_judged_and_masks_saved_on_request(finished, devices, copy):
  config = finished[0].copy_and_resolve_references()
  config.eval.test_clips, config.eval.pictures = 2, 0
  config.eval.conditions, config.eval.save_masks = ("positive", "silence"), True
  config.eval.unseen = ("thunder",)
  whole = (finished[1] / "scoreboard.json").read_bytes()
  (copy / "scoreboard.json").write_bytes(whole)
  results = evaluation.evaluate(config, str(copy))
  assert results["positive"]["clips"] == 2
  assert (copy / f"scoreboard_test_{finished[0].data.clips.test}.json").read_bytes() == whole  # is not lost
  assert {path.name for path in (copy / "masks").iterdir()} == {"positive", "silence", "unseen_thunder"}
  scored = evaluation.score_folder(config, str(copy / "masks"), str(copy / "scored"))
  assert scored == results  # to the digit, in every figure
  ours, again = (board(folder)["record"] for folder in (copy, copy / "scored"))
  kept = ("split", "size", "negatives", "config", "weights_digest", "seed", "warnings")
  assert {name: again[name] for name in kept} == {name: ours[name] for name in kept}
  (copy / "masks").rename(copy / "others")  # of another program, for all that is known
  evaluation.score_folder(config, str(copy / "others"), str(copy / "scored"))
  others = board(copy / "scored")["record"]
  assert "config" not in others and (others["split"], others["size"]) == (ours["split"], ours["size"])
  kept = frontier.read(str(copy / "statistics.npz"))
  assert set(kept) == set(scored) - {"global"}
  iou, active = frontier.masks_at(kept["unseen_thunder"], None)
  assert np.mean(iou) == pytest.approx(results["unseen_thunder"]["iou_frame"], abs=1e-12)
  assert np.mean(active) == pytest.approx(results["unseen_thunder"]["fpr"], abs=1e-12)


def test_a_record_says_what_the_figures_were_measured_with(finished):
  record = board(finished[1])["record"]
  assert record["data_set"] == "generated single-source clips (stand-in)"
  assert record["is_stand_in"] is True
  assert record["seed"] == 0
  assert record["size"] == finished[0].data.size and record["negatives"] == "drawn here, data.seed 0"
  assert record["float32_products"]
  assert record["config"]["model"]["width"] == 8
  assert len(record["weights_digest"]) == 8


def test_a_folder_without_weights_is_one_sentence(small, tmp_path):
  with pytest.raises(InputError, match="no checkpoint there"):
    evaluation.evaluate(small(), str(tmp_path))


def test_a_misspelt_sound_is_a_sentence_before_any_clip_is_read(small, tmp_path):
  with pytest.raises(InputError, match="eval.conditions: 'silent' is not a sound; choose from positive"):
    evaluation.evaluate(small({"eval.conditions": ("positive", "silent")}), str(tmp_path))


def test_scoring_needs_a_folder(small, tmp_path):
  with pytest.raises(InputError, match="--mode=score needs --input=FOLDER"):
    evaluation.score_folder(small(), None, str(tmp_path))


def test_the_figures_that_choose_the_best_are_those_where_more_is_better():
  assert set(evaluation.selection_metrics(1)) == {
    "iou_frame", "f_max_batch20", "iou_dataset", "f_max_dataset", "f_at_half",
    "iou_frame_nonempty", "f_max_batch20_nonempty",
  }  # fmt: skip
  assert "iou_class_frame_published" in evaluation.selection_metrics(71)
  assert not set(evaluation.selection_metrics(71)) & set(evaluation.selection_metrics(1))


def test_a_perfect_prediction_is_scored_as_perfect_and_filling_rows_count_for_nothing():
  masks = np.zeros((2, 1, 8, 8), np.int32)
  masks[:, :, 2:6, 2:6] = 1
  rows = {
    "frames": np.zeros((2, 1, 8, 8, 3), np.uint8), "log_mel": np.zeros((2, 1, 96, 64), np.float32), "masks": masks,
    "annotated": np.ones((2, 1), bool), "present": np.ones((2, 1), bool),
    "condition": np.zeros(2, np.int32), "index": np.array([4, -1], np.int32),
  }  # fmt: skip
  masks[1] = 1 - masks[1]
  mesh = meshes.make_mesh(1)

  def predict(variables, batch: Batch) -> Outputs:
    del variables
    shown = (2.0 * np.asarray(masks[:1]).repeat(2, 0) - 1)[..., None]
    return Outputs(logits=jnp.asarray(10 * shown, jnp.float32))

  seen = evaluation.judge(predict, evaluation.make_count(mesh), {}, [rows], mesh, keep=[4])
  assert seen.figures["clips"] == 1
  assert seen.figures["iou_frame"] == pytest.approx(1, abs=1e-6)
  assert set(seen.probabilities) == {4}
  assert seen.probabilities[4].shape == (1, 8, 8)


@pytest.mark.parametrize("gate", [False, True])
def test_a_guided_model_is_judged_with_its_similarity_and_a_gated_one_without_its_gate_too(
  small, tmp_path, gate
):
  config = small({"debias.guide": "cosine", "debias.gate": gate, "model.tpavi_stages": ()})
  from data_pipelines import sources

  model, mesh = build_model(config), meshes.make_mesh(2, 1, jax.devices()[:1])
  variables = initialise(model, *example_inputs(config), seed=0)
  source = sources.build(config, "test")
  seen = evaluation.four_sounds(config, model, variables, source, mesh, str(tmp_path))
  assert -1 <= seen["positive"].figures["similarity"] <= 1
  assert ("iou_frame_ungated" in seen["positive"].figures) == gate
  assert ("ungated_active" in seen["positive"].statistics) == gate


def test_what_a_gate_takes_away_is_kept_beside_what_it_leaves():
  masks = np.ones((2, 1, 8, 8), np.int32)
  rows = {
    "frames": np.zeros((2, 1, 8, 8, 3), np.uint8), "log_mel": np.zeros((2, 1, 96, 64), np.float32), "masks": masks,
    "annotated": np.ones((2, 1), bool), "present": np.ones((2, 1), bool),
    "condition": np.zeros(2, np.int32), "index": np.arange(2, dtype=np.int32),
  }  # fmt: skip
  right = jnp.full((2, 1, 8, 8, 1), 9.0)
  half = right.at[1].set(-1e4)  # the second clip is refused
  mesh = meshes.make_mesh(1)
  judged = evaluation.judge(
    lambda _, batch: Outputs(logits=half, ungated=right), evaluation.make_count(mesh), {}, [rows], mesh
  )
  assert (judged.figures["iou_frame"], judged.figures["iou_frame_ungated"]) == pytest.approx(
    (0.5, 1), abs=1e-6
  )
  assert (judged.figures["fpr"], judged.figures["fpr_ungated"]) == pytest.approx((0.5, 1), abs=1e-6)
  np.testing.assert_array_equal(judged.statistics["active"], [64, 0])
  np.testing.assert_array_equal(judged.statistics["ungated_active"], [64, 64])
  plain = evaluation.judge(
    lambda _, batch: Outputs(logits=half), evaluation.make_count(mesh), {}, [rows], mesh
  )
  assert not [name for name in (*plain.figures, *plain.statistics) if "ungated" in name]


def test_the_best_weights_are_those_judged(finished):
  _, folder, _ = finished
  from avs_jax.checkpoint import combined, digest

  assert combined(digest(load_variables(str(folder)))) == board(folder)["record"]["weights_digest"]


def test_weights_that_are_asked_for_are_never_those_of_another_run_in_the_folder(finished, devices, copy):
  config = finished[0].copy_and_resolve_references()
  config.init.system = "theirs.pth"
  model = build_model(config)
  with pytest.raises(
    InputError, match=r"of its own, whose weights would be judged in place of init.system=theirs"
  ):
    evaluation.evaluate(config, str(copy))
  assert not (copy / "scoreboard.json").exists()
  saved = json.loads((copy / "config.json").read_text())
  saved["init"]["system"] = "theirs.pth"  # a run that began from them
  (copy / "config.json").write_text(json.dumps(saved))
  assert evaluation.weights_to_judge(config, model, str(copy))["params"]


def test_weights_of_another_model_are_a_sentence_before_any_clip_is_read(finished, devices, copy):
  config = finished[0].copy_and_resolve_references()
  config.model.width = 16
  with pytest.raises(InputError, match=r"its weights are of another model \(\d+ arrays differ, first"):
    evaluation.evaluate(config, str(copy))
  assert not (copy / "scoreboard.json").exists()


def test_other_settings_than_the_trainings_are_told(finished, copy, caplog):
  config = finished[0].copy_and_resolve_references()
  evaluation.tell_other_settings(config, str(copy))
  assert not caplog.text
  config.negatives.fraction = 0.5
  evaluation.tell_other_settings(config, str(copy))
  assert "was trained with other settings (negatives.fraction: 0.0, now 0.5)" in caplog.text


def test_a_weight_file_is_judged_as_its_run_was_and_never_into_a_run(finished, devices, copy, tmp_path):
  config, folder, _ = finished
  path = str(tmp_path / "model.safetensors")
  bundle.save(path, load_variables(str(folder)), json.loads(config.to_json_best_effort()), {})
  evaluation.evaluate(config, str(tmp_path / "new" / "judged"), path)
  ours, theirs = board(tmp_path / "new" / "judged"), board(folder)
  assert flat(ours) == flat(theirs)
  assert ours["record"]["weights_digest"] == theirs["record"]["weights_digest"]
  with pytest.raises(
    InputError, match=r"holds a run, whose own scoreboard would be lost to the scoreboard of"
  ):
    evaluation.evaluate(config, str(copy), path)
  marked = config.copy_and_resolve_references()
  marked.marks.kind = "kmeans"
  with pytest.raises(InputError, match="needs the marks that lie beside its checkpoints"):
    evaluation.weights_of_file(marked, path)


def test_scores_of_masks_never_replace_those_of_a_run(finished):
  before = (finished[1] / "scoreboard.json").read_bytes()
  with pytest.raises(InputError, match=r"holds a run, whose own scoreboard would be lost to that of masks"):
    evaluation.score_folder(finished[0], "masks", str(finished[1]))
  assert (finished[1] / "scoreboard.json").read_bytes() == before


def two_clips(first: int):
  """Two clips of a second; half of every picture sounds."""
  masks = np.zeros((2, 1, 8, 8), np.int32)
  masks[..., :4] = 1
  return {
    "frames": np.zeros((2, 1, 8, 8, 3), np.uint8),
    "log_mel": np.zeros((2, 1, 96, 64), np.float32),
    "masks": masks,
    "annotated": np.ones((2, 1), bool),
    "present": np.ones((2, 1), bool),
    "condition": np.zeros(2, np.int32),
    "index": np.arange(first, first + 2, dtype=np.int32),
  }


def right_for_even_clips(variables, batch):
  """Right for even clips, empty for odd ones; with groups to be drawn."""
  right = np.asarray(batch.index) % 2 == 0
  logits = np.where(right[:, None, None, None] & (np.asarray(batch.masks) > 0), 9.0, -9.0)
  groups = np.zeros((2, 1, 2, 2), np.int32)
  agreement = np.asarray(batch.index, np.float32).reshape(2, 1, 1)
  return Outputs(logits[..., None].astype(np.float32), groups=groups, group_agreement=agreement)


def test_parts_are_scored_apart_and_evidence_is_kept_of_the_pictured_clips():
  one = meshes.make_mesh(1)
  seen = evaluation.judge(
    right_for_even_clips,
    evaluation.make_count(one),
    {},
    [two_clips(0), two_clips(2)],
    one,
    keep=(3,),
    parts={"pair": [0, 2], "switch": [1]},
  )
  assert abs(seen.figures["iou_frame"] - 0.5) < 1e-6 and seen.figures["clips"] == 4
  assert abs(seen.parts["pair"]["iou_frame"] - 1) < 1e-6 and seen.parts["pair"]["clips"] == 2
  assert abs(seen.parts["switch"]["iou_frame"]) < 1e-6 and seen.parts["switch"]["clips"] == 1
  assert list(seen.evidence) == [3] and seen.evidence[3]["group_agreement"].item() == 3
  header, table = report.table(
    {"positive": seen.figures, **{f"positive_{name}": part for name, part in seen.parts.items()}}
  )
  said = {row[0]: row[header.index("iou_frame")] for row in table}
  assert said["own sound, two of a kind"].startswith("1.0") and "own sound, where sounds come and go" in said


def test_every_picture_says_of_which_clip_and_data_it_is(small, tmp_path, monkeypatch):
  captions = []
  monkeypatch.setattr(visualize, "four_sounds", lambda *rest, caption: captions.append(caption))
  config = small({"eval.pictures": 1, "title": "A run"})
  source = Generated("single", "test", 2, size=config.data.size, seconds=1)
  nothing = {0: np.zeros((1, config.data.size, config.data.size))}
  seen = {name: evaluation.Seen({}, nothing) for name in config.eval.conditions}
  (tmp_path / "pictures").mkdir()
  for name in (
    "four_sounds_1.png",
    "four_sounds_1.npz",
    "evidence_2.png",
    "curves.png",
  ):  # of a judging before
    (tmp_path / "pictures" / name).write_bytes(b"")
  evaluation.draw(config, source, seen, str(tmp_path))
  assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"curves.png", "four_sounds_0.npz"}
  assert captions == [f"A run: {source.ids[0]}, {source.title}, {config.eval.split}"]
  assert "(stand-in)" in captions[0]


def test_a_kind_that_all_clips_share_is_no_part():
  source = Generated("vpo_msmi", "test", 40, size=8, seconds=3)
  found = evaluation.clips_by_kind(source)
  assert set(found) == {"pair", "switch"} and not set(found["pair"]) & set(found["switch"])
  assert evaluation.clips_by_kind(Generated("vpo_ss", "test", 4, size=8)) == {}
  assert evaluation.clips_by_kind([]) == {}
