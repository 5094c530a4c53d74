"""Internal: the tabs of the explorer, one file each: the questions of its script and their answers.

A new tab is a file here with a `TAB`, a script of the same name in `page`, and an entry in
`all_tabs`.
"""
