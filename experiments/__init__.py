"""The papers' tables as commands that go on where they were stopped; see docs/experiments.md."""
