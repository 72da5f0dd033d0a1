"""Tables as Markdown and LaTeX: numbers, their spread over seeds, whole files or none."""

import math
import os
from collections.abc import Sequence
from typing import Any


def number(value: Any, digits: int = 4) -> str:
  """A fraction with so many digits; other things as they are, nothing as a dash."""
  return "–" if value is None else f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def mean_std(values: Sequence[float | None]) -> tuple[float, float | None] | None:
  """Mean and standard deviation of a sample (n - 1); no deviation of one value, nothing where one is missing."""
  known = [float(value) for value in values if value is not None]
  if not known or len(known) < len(values):
    return None
  mean = math.fsum(known) / len(known)
  if len(known) == 1:
    return mean, None
  return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))


def spread(values: Sequence[float | None], digits: int = 4) -> str:
  """ "0.9185 ± 0.0021"; the deviation is left out where there is one value."""
  found = mean_std(values)
  if found is None:
    return "–"
  mean, deviation = found
  return number(mean, digits) + ("" if deviation is None else f" ± {number(deviation, digits)}")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
  """Lines of a table whose first `left` columns are words."""
  lines = ["| " + " | ".join(header) + " |", "|" + "---|" * left + "---:|" * (len(header) - left)]
  return lines + ["| " + " | ".join(row) + " |" for row in rows]


def escape(text: str) -> str:
  """Text as LaTeX takes it."""
  plain = {"\\": r"\textbackslash ", **{c: "\\" + c for c in "_%&#${}"}}
  plain |= {"–": "--", "±": r"$\pm$", "†": r"\dag{}"}
  return "".join(plain.get(c, c) for c in text)


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, left: int = 1) -> str:
  """A table environment (booktabs)."""
  lines = ["% needs \\usepackage{booktabs}", "\\begin{table}", "\\centering", "\\small"]
  lines += [f"\\begin{{tabular}}{{{'l' * left}{'r' * (len(header) - left)}}}", "\\toprule"]
  lines += [" & ".join(escape(cell) for cell in header) + " \\\\", "\\midrule"]
  lines += [" & ".join(escape(cell) for cell in row) + " \\\\" for row in rows]
  return "\n".join(
    [*lines, "\\bottomrule", "\\end{tabular}", f"\\caption{{{escape(caption)}}}", "\\end{table}", ""]
  )


def save(path: str, text: str) -> str:
  """Writes a whole file or none. Returns `path`."""
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  with open(path + ".part", "w", encoding="utf-8") as file:
    file.write(text)
  os.replace(path + ".part", path)
  return path
