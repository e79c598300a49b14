from hypothesis import settings

# The same examples at every run, and no time limit per example: a busy machine is no failure.
settings.register_profile("reg", deadline=None, derandomize=True)
settings.load_profile("reg")
