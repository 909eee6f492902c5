"""Patch every Python program of an environment, if its surroundings ask for it."""

import os

if os.environ.get("NTMPATCH_TOKEN") or os.environ.get("NTMPATCH_STATE"):
    import ntmpatch

    ntmpatch.patch_all(gevent=False)
