"""One file a revision, in the order that each names in ``down_revision``. None is ever changed."""
