"""BiasAVS's table 4: three contrast strategies on every system, vanilla beside, on a stand-in.

  python -m experiments.run --study=experiments/debias.py                    generated clips, one object (as S4)
  python -m experiments.run --study=experiments/debias.py:generated_multi    generated clips, several (as MS3)
  python -m experiments.run --study=experiments/debias.py:real_media         composed photographs and recordings

Rows of AVSBench, AVSegFormer and the active queries, all on positive pairs only:
  vanilla       no contrast
  ensemble      merged with a separately trained model that hears nothing (row deaf)
  bias_only     a branch that hears nothing, trained along
  uncertainty   against the same model given noised sound
  deaf          the other half of ensemble; in no table
The systems are those of experiments/systems.py. What a strategy costs in time is measured in turn, not read off runs
that shared a machine: `python -m benchmarks.contrast --strategies=ensemble,bias_only,uncertainty`.
"""

from avs_jax.errors import InputError
from experiments.paper_rows import PaperRow
from experiments.study import Line, Row, Study, Table
from experiments.systems import SETTINGS, SMALL

NAMES = {"avsbench": "AVSBench", "avsegformer": "AVSegFormer", "active_queries": "active queries"}
STRATEGIES = {
  "vanilla": ("vanilla", "none"),
  "ensemble": ("logits ensemble", "ensemble"),
  "bias_only": ("bias only", "bias_only"),
  "uncertainty": ("uncertainty", "uncertainty"),
}
# mIoU (per cent) and F-score (a fraction in the paper) on V1M, that is MS3.
PRINTED = {
  "avsbench": ((54.00, 0.645), (54.12, 0.659), (53.43, 0.640), (54.81, 0.682)),
  "avsegformer": ((58.36, 0.693), (56.85, 0.662), (58.86, 0.687), (59.63, 0.718)),
  "active_queries": ((66.12, 0.792), (64.42, 0.795), (66.50, 0.797), (67.22, 0.808)),
}


def get_study(arg: str = "generated") -> Study:
  """The study on the data named `arg`.

  Raises:
    InputError: there are no such data.
  """
  if arg not in SETTINGS:
    raise InputError(f"experiments/debias.py:{arg}: there is no such data; choose {', '.join(SETTINGS)}.")
  config, common = SETTINGS[arg]
  kinds = {"vanilla": "none", "deaf": "visual_only", **{name: word for name, (_, word) in STRATEGIES.items()}}
  rows = tuple(
    Row(
      f"{system}-{name}",
      f"{config}:{system}",
      (*common, SMALL[system], {"debias": {"contrast": contrast}}),
      partner=f"{system}-deaf" if name == "ensemble" else "",
    )
    for system in NAMES
    for name, contrast in kinds.items()
  )
  printed = tuple(
    PaperRow(4, "MS3", (name, label), (figures[place][0], 100 * figures[place][1]))
    for system, name in NAMES.items()
    for figures in (PRINTED[system],)
    for place, (label, _) in enumerate(STRATEGIES.values())
  )
  every = tuple(
    Line((name, label), f"{system}-{strategy}")
    for system, name in NAMES.items()
    for strategy, (label, _) in STRATEGIES.items()
  )
  words = ("model", "contrast")
  losses = tuple(
    Table(
      f"against_{system}",
      f"{name}: what each contrast loses against vanilla (below 0: gains)",
      "against",
      words,
      tuple(line for line in every if line.labels[0] == name),
      printed,
      against=f"{system}-vanilla",
    )
    for system, name in NAMES.items()
  )
  return Study(
    name=f"debias_{arg}",
    title=f"Three contrasts: {arg.replace('_', ' ')}",
    rows=rows,
    tables=(
      Table("table_4", "Table 4 (V1M): three contrasts, four sounds", "conditions", words, every, printed),
      *losses,
    ),
    frontier=tuple(line.row for line in every),
    pictures=tuple(f"active_queries-{name}" for name in STRATEGIES),
  )
