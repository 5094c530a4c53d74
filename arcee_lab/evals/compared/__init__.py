"""Internal: runs compared document by document; `al.evals.compare` is the way in."""
