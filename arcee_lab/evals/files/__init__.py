"""Internal: the files of a saved evaluation, in lm-eval's shape with ours added."""
