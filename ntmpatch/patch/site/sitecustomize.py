# What ``ntmpatch run`` puts first on PYTHONPATH: patches the program's process before the program
# begins, then steps aside for the sitecustomize it shadowed.
#
# Children inherit PYTHONPATH, and a child may be any Python: an older one, another environment
# without our dependencies. This file therefore keeps to syntax that every Python reads (no
# annotations, no functions to annotate), and does nothing where the interpreter is not the one that
# ``run`` was started with. It runs while ``site`` is being imported: sys.path[0], argv and
# __main__ do not exist yet, so they come out as they would without us.
import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if not entry or os.path.abspath(entry) != _here]
sys.path_importer_cache.pop(_here, None)

_tag = getattr(getattr(sys, "implementation", None), "cache_tag", None)
_interpreter = "%s:%s" % (_tag, os.path.realpath(sys.prefix))  # noqa: UP031 (read by any Python)
if os.environ.get("NTMPATCH_RUN") == _interpreter:
    try:
        # The ntmpatch that `run` belongs to, whatever else sys.path may offer under this name.
        # Only the package itself is imported meanwhile: its parent directory is not left on the
        # path, where it could shadow the standard library or the program.
        _root = os.path.dirname(os.path.dirname(os.path.dirname(_here)))
        sys.path.insert(0, _root)
        try:
            import ntmpatch
        finally:
            sys.path.remove(_root)
        ntmpatch.patch_all(gevent=os.environ.get("NTMPATCH_GEVENT") == "1")
    except Exception as _error:  # the program is not to die of its wrapper: it runs unpatched
        sys.stderr.write("ntmpatch: this process stays unpatched: %r\n" % (_error,))  # noqa: UP031

# The one that was shadowed, exactly once: it takes our place in sys.modules, so that the import
# under way yields it. If there is none, this raises the very ImportError that ``site`` expects and
# ignores when no sitecustomize exists, and no trace of ours remains.
del sys.modules["sitecustomize"]
import sitecustomize  # type: ignore[import-not-found]  # noqa: E402, F401 (found at run time, or not)
