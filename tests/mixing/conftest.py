"""Laws run on machines that are shared: no time limit per example."""

from hypothesis import settings

settings.register_profile("mixing", deadline=None, max_examples=25)
settings.load_profile("mixing")
