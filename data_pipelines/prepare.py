"""`--mode=prepare`: writes a data set out once, packed for fast reading or in AVSBench's own layout."""

import logging
from typing import Any

from avs_jax import limits
from avs_jax.errors import InputError, check_choice, make_folder
from data_pipelines import avsbench_index, sources

SPLITS = ("train", "val", "test")
log = logging.getLogger(__name__)


def prepare(config: Any, output: str | None) -> None:
  """Writes all splits of `config.data` to `output` in the form of `config.prepare.form`.

  "array_record" packs them (read again with `data.packed=True`); "layout" writes PNG and WAV files as
  AVSBench publishes them, so that a stand-in can be read by the real reader and by other programs.

  Raises:
    InputError: no output folder, one that cannot be made or that holds what is read, unknown form, or a clip that
      cannot be read.
  """
  if not output:
    raise InputError("--mode=prepare needs --output=FOLDER to write the data set to.")
  form = config.prepare.form
  check_choice("prepare.form", form, ("array_record", "layout"))
  limits.check_values(config)
  make_folder(output)
  for split in SPLITS:
    source = sources.build(config, split)
    log.info("%s: writing %d clips of %s", split, len(source), source.title)
    if form == "layout":
      from data_pipelines.layout import write_layout

      written = write_layout(source, output, config.data.name, split)
    else:
      from data_pipelines.avsbench_tfds import pack

      written = pack(source, output, split, subset=avsbench_index.data_name(config.data.name))
    log.info("%s: %s", split, written)
