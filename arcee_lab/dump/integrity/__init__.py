"""Internal: verification and repair of stores.

checking   `verify`
repairing  `repair`: plan, then rewrite
"""
