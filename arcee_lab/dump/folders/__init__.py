"""Internal: the folder of a store, with one writer at a time.

folder  what every folder can do
local   a folder on this machine
remote  a folder at an fsspec URL
open    the folder of a path or URL
lock    the lock of a local folder
"""
