"""configs/robust.py: system, benchmark and recipe are a word each."""

import csv

import jax
import pytest

from avs_jax.errors import InputError
from avs_jax.model import build_model, build_objective
from avs_jax.step import decoy_of, forward
from avs_jax.types import Batch
from configs import robust
from data_pipelines import feed, sources
from data_pipelines.generated import Generated
from data_pipelines.layout import write_layout


def test_without_a_word_it_is_the_papers_recipe_on_ms3():
  config = robust.get_config()
  assert (config.data.name, config.model.system, config.debias.guide) == ("ms3", "avsbench", "cosine")
  assert (config.negatives.fraction, config.debias.guide_weight, config.schedule.epochs) == (0.1, 1.0, 30)
  assert config.negatives.silence == config.negatives.noise == config.negatives.offscreen
  assert (config.loss.bce, config.loss.matching, config.optimizer.lr) == (1.0, "none", 1e-4)


@pytest.mark.parametrize("arg", ["avsegformer-s4-grounded", "grounded-avsegformer-s4"])
def test_the_three_words_stand_in_any_order(arg):
  config = robust.get_config(arg)
  assert (config.data.name, config.model.system, config.debias.guide) == ("s4", "avsegformer", "localised")
  assert config.debias.gate and config.debias.mismatch > 0
  assert (config.schedule.epochs, config.optimizer.lr, config.data.size) == (30, 2e-5, 512)
  assert config.title == "robust S4 avsegformer, grounded"


@pytest.mark.parametrize("recipe", robust.RECIPES)
@pytest.mark.parametrize("system", ["avsbench", "avsegformer"])
def test_only_the_released_avsegformer_learns_nothing_from_empty_masks(system, recipe):
  loss = robust.get_config(f"{system}-{recipe}").loss
  assert (loss.bce > 0) == (system == "avsbench" or recipe not in ("prior", "as_published"))


def test_the_prior_hears_positive_pairs_only_and_recipes_do_not_leak_into_each_other():
  robust.get_config("grounded")
  config = robust.get_config("prior")
  assert (config.negatives.fraction, config.debias.guide, config.debias.gate) == (0.0, "none", False)


def test_the_released_recipe_keeps_its_mismatched_front_end_and_its_guide():
  config = robust.get_config("avsegformer-as_published")
  assert (config.debias.guide, config.negatives.front_end) == ("cosine_released", "as_published")
  assert config.negatives.noise == 0
  assert robust.get_config("avsbench-as_published").debias.guide == "cosine"


@pytest.mark.parametrize("arg", ["grunded", "s4-ms3", "avsbench-avsegformer"])
def test_a_wrong_or_doubled_word_is_refused_with_all_that_there_are(arg):
  with pytest.raises(InputError, match="is unknown or one too many.*avsegformer.*s4, ms3.*grounded"):
    robust.get_config(arg)
  with pytest.raises(InputError, match="no robust recipe 'x'; choose one of prior"):
    robust.follow_recipe(robust.get_config(), "x")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  """Training clips of S4 and MS3, in their published layout, and MS3's last without a name for what it shows."""
  root = tmp_path_factory.mktemp("clips")
  for subset, kind in (("s4", "single"), ("ms3", "multi")):
    source = Generated(kind, "train", num_clips=4, seed=0, size=32, seconds=5)
    write_layout(source, root, subset, "train")
  [table] = root.glob("**/ms3_meta_data.csv")
  rows = list(csv.reader(table.read_text().splitlines()))
  rows[-1][rows[0].index("a_obj")] = ""
  with table.open("w", newline="") as file:
    csv.writer(file).writerows(rows)
  return str(root)


@pytest.mark.parametrize("recipe", robust.RECIPES)
@pytest.mark.parametrize("benchmark", ["s4", "ms3"])
def test_every_recipe_has_what_it_learns_from_on_both_data_sets(benchmark, recipe, clips):
  config = robust.get_config(f"{benchmark}-{recipe}")
  with config.unlocked():
    config.data.update({"root": clips, "size": 32, "threads": 0})
    config.schedule.batch = 4
    config.model.update({"visual": "conv_pyramid", "visual_args": {"width": 4}, "width": 8})
    config.model.audio_args.width = 1 / 64
  source = sources.build(config, "train")
  objective = build_objective(config, source.broad or source.categories)
  with feed.training(config, source) as rows:
    batch = Batch(**next(rows))
  model = build_model(config)

  def loss(key):
    variables = model.init(key, batch.frames, batch.log_mel, **decoy_of(model, batch))
    return objective(forward(model, variables, batch, key)[0], batch)

  total, parts = jax.eval_shape(
    loss, jax.random.key(0)
  )  # traced, not computed: what is missing is missed here
  assert total.shape == ()
  assert ("guide" in parts) == (recipe not in ("prior", "negatives"))
  assert ("mismatch" in parts) == ("decoys" in parts) == (recipe == "grounded")
