"""The one kind of failure that is the user's to mend: bad files, bad settings, missing data."""


class InputError(ValueError):
  """Something given to the program is wrong; the message is one sentence: what, expected what, do what.

  `run.py` prints the message alone and exits with status 2; every other exception is a defect of ours
  and keeps its traceback.
  """
