"""Following one system's paper changes nothing of another's, nor of AVSBench's own recipe."""

import importlib
import json

import pytest

from configs import common


def load(name, *arguments):
  return importlib.import_module(f"configs.{name}").get_config(*arguments)


@pytest.mark.parametrize("name", ("s4", "ms3", "avss"))
def test_following_one_paper_leaves_the_other_as_it_was(name):
  before = load(name).to_dict()
  config = load(name, "avsegformer")
  assert (
    common.from_json(json.loads(config.to_json_best_effort()), "config.json").to_dict() == config.to_dict()
  )
  assert load(name).to_dict() == before
  assert before["optimizer"]["name"] == "adam" and before["data"]["size"] == 224


def test_a_benchmark_that_a_paper_does_not_know_keeps_its_recipe():
  config = common.get_config()
  before = config.to_dict()
  common.follow_paper(config, "s4")
  common.select_system(config, "avsegformer")
  common.follow_paper(config, "elsewhere")
  after = {**config.to_dict(), "model": before["model"]}
  assert after == before
