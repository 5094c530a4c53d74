"""Internal: what runs reducers and keeps their states.

requests          which reducers act at which sites
context           the block in which they run; compiled_context: inside a compiled model
statistics        what they found: merged, gathered over ranks, saved, loaded
files             statistics on disk
result            what the results of all reducers have
chunks, binning, uint8_counts   arithmetic that several reducers share
"""
