"""One file per benchmark; `get_config(arg)` gives a locked ConfigDict. A config is the record of its runs."""
