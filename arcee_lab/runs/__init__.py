"""Internal: the environment of long runs.

storage    atomic files, JSON, folders that belong to one run
ranks      the processes of one job
one_writer one process at a time for the folder of a run
paths      what is at a path, in words
interrupt  Ctrl-C between two steps
progress   progress bars
seeds      random seeds of evaluations
bounds     the largest numbers accepted from outside
arguments  arguments of public calls against their types
devices    names of devices
json_text  JSON from outside, bounded
hub        which names may be looked up on the Hub
"""
