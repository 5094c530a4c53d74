"""The GPU proof: `python3 run.py gpu [--out DIR]`; see docs/how-to/gpu_proof.md.

__main__     the command: what is there, the rows in order, the exit code
rows         what a row is, and how one is run
place        the card: times, host waits, memory, what it can do at most
shapes       models made on the card, and batches for them
parity       against transformers' own Arcee
cost         captures, reducers and patterns against the plain forward at AFM's shape
lenses       lenses, attribution, detected heads
neuron_rows  effects, search, ablation and pages of neurons
answering    the explorer's answers, and training a head
longer       dumps, evaluations, decoding, compiled graphs, 4-bit weights
marked       the tests that are marked `gpu`
checkpoint   a checkpoint that the user names
report       the table, the JSON and the trace
older        what transformers 5.17 lacks
"""
