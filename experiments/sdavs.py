"""SDAVS's ablations, tables III to VI and VIII, and its noise table IX, on a stand-in or on AVSBench itself.

  python -m experiments.run --study=experiments/sdavs.py                    generated clips, one object (as S4)
  python -m experiments.run --study=experiments/sdavs.py:generated_multi    generated clips, several (as MS3)
  python -m experiments.run --study=experiments/sdavs.py:real_media         composed photographs and recordings
  AVS_DATA_ROOT=... python -m experiments.run --study=experiments/sdavs.py:ms3      (or s4)

Every row is the whole model with one setting changed (`ROWS`). On stand-ins the decoder is 32 wide with 4 heads,
and all rows share one warm-up; on AVSBench the recipe is the paper's. Positive pairs only, as in the paper.
Table IX's train is a recording on real media. Elsewhere it is synthesised ("made train"); on AVSBench give a recording:
  --set='{"eval": {"noise_mix": {"kind": ["brown", "moving_train.wav"]}}}'
The last table says of each of the paper's conclusions whether every seed agrees with it.
"""

from collections.abc import Mapping
from typing import Any

from avs_jax.errors import InputError
from experiments import systems
from experiments.paper_rows import PaperRow
from experiments.study import Line, Row, Study, Table

# row -> what the paper calls it, and the setting that makes it.
ROWS: dict[str, tuple[str, Mapping[str, Any]]] = {
  "whole": ("SDAVS", {}),
  "without_snrp": ("w/o SNRP", {"snrp": "none"}),
  "without_damf": ("w/o DAMF", {"damf": "none"}),
  "without_cfs": ("w/o CFS", {"selectors": "spatial"}),
  "without_sfs": ("w/o SFS", {"selectors": "channel"}),
  "after": ("SNRP after the fusion", {"snrp": "after"}),
  "audio_to_visual": ("only A→V", {"damf": "audio_to_visual"}),
  "visual_to_audio": ("only V→A", {"damf": "visual_to_audio"}),
  "without_stc": ("w/o STC", {"stc": False}),
  "straight": ("straight", {"interaction": "straight"}),
  "add": ("add", {"interaction": "add"}),
}
# J and F as printed on S4 and on MS3.
PRINTED: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
  "whole": ((85.5, 92.0), (72.3, 80.8)),
  "without_snrp": ((84.1, 90.8), (70.7, 79.0)),
  "without_damf": ((83.2, 90.5), (69.1, 78.2)),
  "without_cfs": ((84.3, 90.9), (70.6, 79.1)),
  "without_sfs": ((84.6, 91.3), (70.5, 79.1)),
  "after": ((84.3, 90.6), (71.1, 78.7)),
  "audio_to_visual": ((83.4, 90.9), (69.6, 78.8)),
  "visual_to_audio": ((83.2, 90.7), (69.3, 78.6)),
  "without_stc": ((83.8, 91.0), (70.5, 79.3)),
  "straight": ((83.9, 91.2), (71.2, 79.6)),
  "add": ((84.3, 91.5), (71.6, 79.9)),
}
# Table IX, MS3: without and with SNRP.
PRINTED_NOISE = {
  "own": ((70.7, 79.0), (72.3, 80.8)),
  "own + Brownian noise x0.1": ((68.8, 76.5), (72.1, 80.5)),
  "own + moving train x0.1": ((69.5, 77.3), (72.2, 80.8)),
}
# The paper's number of a table -> its title and rows.
TABLES: dict[int, tuple[str, tuple[str, ...]]] = {
  3: ("the two modules", ("without_snrp", "without_damf", "whole")),
  4: ("the two selectors of SNRP", ("without_cfs", "without_sfs", "whole")),
  5: ("the place of SNRP", ("whole", "after")),
  6: ("directions and enhancer of DAMF", ("audio_to_visual", "visual_to_audio", "without_stc", "whole")),
  8: ("the interaction in DAMF", ("straight", "add", "whole")),
}
ROMAN = {3: "III", 4: "IV", 5: "V", 6: "VI", 8: "VIII", 9: "IX"}
# arg -> benchmark whose printed lines stand beside ours.
DATA = {**{arg: "MS3" if "multi" in arg else "S4" for arg in systems.SETTINGS}, "s4": "S4", "ms3": "MS3"}


def get_study(arg: str = "generated") -> Study:
  """The study on the data named `arg`.

  Raises:
    InputError: there are no such data.
  """
  if arg not in DATA:
    raise InputError(f"experiments/sdavs.py:{arg}: there is no such data; choose {', '.join(DATA)}.")
  if arg in systems.SETTINGS:
    config, common = systems.SETTINGS[arg]
    common = (*common, systems.SMALL["sdavs"])
  else:
    noise = {"kind": ("brown", "made_train"), "snr_db": ()}  # times 0.1, the paper's
    config, common = f"configs/{arg}.py", ({"eval": {"noise_mix": noise}},)
  return Study(
    name=f"sdavs_{arg}",
    title=f"SDAVS's ablations: {arg.replace('_', ' ')}",
    rows=tuple(Row(name, f"{config}:sdavs", (*common, {"model": word})) for name, (_, word) in ROWS.items()),
    tables=tables(DATA[arg]),
    frontier=("whole", "without_snrp", "without_damf"),
    pictures=("whole", "without_snrp", "without_damf"),
    data_set="" if arg in systems.SETTINGS else DATA[arg],
  )


def tables(data: str) -> tuple[Table, ...]:
  """Tables III to VI, VIII, IX, and all conclusions together."""

  def lines(rows: tuple[str, ...]) -> tuple[Line, ...]:
    return tuple(Line((ROWS[row][0],), row) for row in rows)

  def printed(number: int, rows: tuple[str, ...]) -> tuple[PaperRow, ...]:
    place = 0 if data == "S4" else 1
    return tuple(PaperRow(number, data, (ROWS[row][0],), PRINTED[row][place], places=1) for row in rows)

  noise = tuple(
    PaperRow(9, "MS3", (sound, ROWS[row][0]), figures[place])
    for sound, figures in PRINTED_NOISE.items()
    for place, row in enumerate(("without_snrp", "whole"))
  )
  every = tuple(ROWS)
  return (
    *(
      Table(
        f"table_{number}",
        f"Table {ROMAN[number]} ({data}): {title}",
        "conditions",
        ("model",),
        lines(rows),
        printed(number, rows),
      )
      for number, (title, rows) in TABLES.items()
    ),
    Table(
      "table_9",
      "Table IX: noise in the sound, with and without SNRP",
      "mixed",
      ("model",),
      lines(("without_snrp", "whole")),
      noise,
    ),
    Table(
      "conclusions",
      f"What each change loses against the whole model ({data})",
      "against",
      ("model",),
      lines(every),
      printed(0, every),
      against="whole",
    ),
  )
