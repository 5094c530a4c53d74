"""Tasks: found by name, group or file; documents, ceilings and result functions they name."""
