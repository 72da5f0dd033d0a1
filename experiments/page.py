"""A study's tables and figures as one part of a Markdown page, put between two marks so that it can be renewed.

<!-- study robust_generated -->
... all of this is written by `python -m experiments.run ... --into=docs/results.md`
<!-- end of study robust_generated -->
"""

import os
from collections.abc import Iterable

from avs_jax import tables
from avs_jax.errors import InputError
from experiments.study import Study

_FIGURES = {
  "four_sounds": "The same frames under four sounds (as figures 3 and 5)",
  "similarity": "Similarity of sound and picture, own and negative sounds (as figure 4)",
  "frontier": "Positive IoU against G-FPR at other thresholds",
}


def compose(study: Study, paths: Iterable[str], page: str) -> str:
  """The study's part of `page`: what `paths` hold, figures by links that hold from there."""
  paths = list(paths)
  texts = []
  for name in ("runs", *(table.name for table in study.tables)):
    for path in paths:
      if os.path.basename(path) == f"{name}.md":
        with open(path, encoding="utf-8") as file:
          text = file.read().strip()
        texts.append(text.replace("# ", "## ", 1) if name == "runs" else text.replace("## ", "### ", 1))
  for path in paths:
    if path.endswith(".png"):
      name = os.path.basename(path).removesuffix(".png")
      start, words = next(item for item in _FIGURES.items() if name.startswith(item[0]))
      row = name.removeprefix(start).lstrip("_")
      words = f"{words}: {row}" if row else words
      link = os.path.relpath(path, os.path.dirname(os.path.abspath(page)))
      texts.append(f"{words}:\n\n![{words}]({link})")
  return "\n\n".join(texts)


def insert(path: str, study: Study, text: str) -> str:
  """Puts `text` between the study's marks in the page, or at its end. Returns `path`.

  Raises:
    InputError: only one of the two marks is there.
  """
  first, last = f"<!-- study {study.name} -->", f"<!-- end of study {study.name} -->"
  page = ""
  if os.path.exists(path):
    with open(path, encoding="utf-8") as file:
      page = file.read()
  if (first in page) != (last in page) or page.find(first) > page.find(last):
    raise InputError(
      f"{path}: the marks {first} and {last} must both be there, in this order; mend the page."
    )
  part = f"{first}\n\n{text}\n\n{last}"
  if first in page:
    before, rest = page.split(first, 1)
    return tables.save(path, before + part + rest.split(last, 1)[1])
  return tables.save(path, f"{page.rstrip()}\n\n{part}\n".lstrip())
