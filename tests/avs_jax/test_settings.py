"""Which settings may change between a run and the command that goes on with it."""

import pytest
from ml_collections import ConfigDict

from avs_jax import settings
from avs_jax.errors import InputError
from avs_jax.logbook import write_config
from configs import common, tiny


def changed(**changes):
  """The tiny config with "section__key" settings."""
  config = tiny.get_config()
  config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
  return config


@pytest.fixture
def run(tmp_path):
  """run(config) -> the folder of a run of it that has saved a step."""

  def make(config):
    (tmp_path / "run" / "checkpoints" / "4").mkdir(parents=True, exist_ok=True)
    write_config(config, str(tmp_path / "run"))
    return str(tmp_path / "run")

  return make


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"title": "another", "log__every_steps": 7, "eval__unseen": ("thunder",), "eval__test_clips": 1},
    {"data__clips__test": 3, "data__threads": 1, "data__media_cache": "elsewhere"},
    {"steps": 13},
  ],
)
def test_a_run_goes_on_with_what_does_not_decide_its_training(run, changes):
  settings.refuse_other(changed(**{"steps": 12, **changes}), run(changed(steps=12)))


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"negatives__fraction": 0.2}, "negatives.fraction: 0.0, now 0.2"),
    ({"optimizer__betas": (0.9, 0.99)}, r"optimizer.betas: \[0.9, 0.999\], now \[0.9, 0.99\]"),
    ({"seed": 1, "debias__guide": "cosine"}, 'debias.guide: "none", now "cosine"; seed: 0, now 1'),
    ({"data__root": "somewhere"}, "data.root: false, now true"),
    ({"init__system": "a.pth"}, 'init.system: "", now "a.pth"'),
    ({"eval__metric": "f_at_half"}, 'eval.metric: "iou_frame", now "f_at_half"'),
    ({"schedule__accumulate": 2}, "schedule.accumulate: 1, now 2"),  # batch norms and dropout differ
    ({"steps": 11}, "steps: 12, now 11"),
    ({"steps": 0}, "steps: 12, now 0"),
  ],
)
def test_other_settings_are_refused_with_their_names_and_the_remedy(run, changes, said):
  folder = run(changed(steps=12))
  with pytest.raises(InputError, match=said) as told:
    settings.refuse_other(changed(**{"steps": 12, **changes}), folder)
  assert str(told.value).startswith(f"{folder} holds a run that was trained with other settings (")
  assert str(told.value).endswith("); give another --workdir, or the settings as they were.")


def test_a_schedule_that_is_laid_over_all_steps_cannot_be_made_longer(run):
  folder = run(changed(steps=12, schedule__decay="cosine"))
  with pytest.raises(InputError, match="steps: 12, now 20"):
    settings.refuse_other(changed(steps=20, schedule__decay="cosine"), folder)


def test_epochs_count_where_no_steps_are_set(run):
  folder = run(changed(steps=0, schedule__epochs=5))
  settings.refuse_other(changed(steps=0, schedule__epochs=6), folder)
  with pytest.raises(InputError, match="schedule.epochs: 5, now 4"):
    settings.refuse_other(changed(steps=0, schedule__epochs=4), folder)


def test_a_run_that_was_killed_before_it_saved_may_begin_again_with_any_settings(tmp_path):
  write_config(tiny.get_config(), str(tmp_path))
  (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp-1").mkdir(parents=True)
  assert not settings.holds_run(str(tmp_path))
  settings.refuse_other(changed(seed=1), str(tmp_path))
  (tmp_path / "scoreboard.json").write_text("{}")
  assert settings.holds_run(str(tmp_path))


def test_checkpoints_that_do_not_say_how_they_were_trained_are_refused(tmp_path):
  (tmp_path / "best" / "4").mkdir(parents=True)
  with pytest.raises(
    InputError, match=r"holds checkpoints without their config.json; give another --workdir"
  ):
    settings.refuse_other(tiny.get_config(), str(tmp_path))


def test_one_run_is_not_trained_over_the_runs_of_several_variants(tmp_path):
  config = tiny.get_config()
  with config.unlocked():
    config.variants = ConfigDict({"a": {}, "b": {"seed": 1}})
  write_config(config, str(tmp_path))
  with pytest.raises(InputError, match="holds the runs of several variants"):
    settings.refuse_other(tiny.get_config(), str(tmp_path))


def test_a_run_of_before_the_loss_left_its_forms_values_open_goes_on(run):
  before = changed(loss__queries_last=2.0, loss__queries_drop=0.4)
  settings.refuse_other(changed(), run(before))
  with pytest.raises(InputError, match=r"loss\.queries_drop: 0\.4, now 0\.3; loss\.queries_form"):
    settings.refuse_other(changed(loss__queries_form="released"), run(before))


def test_what_decides_figures_leaves_out_titles_and_places():
  found = settings.deciding(changed(data__root="here"))
  assert found["data.root"] is True and "eval.split" in found
  assert not {"title", "log.every_steps", "warmup.folder", "data.threads"} & set(found)
  assert settings.deciding(common.get_config())["data.root"] is bool(common.get_config().data.root)
