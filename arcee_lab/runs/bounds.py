"""The largest numbers accepted from outside for anything that decides a size or a loop.

They are far above sensible values and below those that hang or crash the machine: torch ends in a
segmentation fault with 100,000 threads.
"""

import os

ANY = 10**12  # tokens, documents, rows of a file: the input ends first
ROWS = 65_536  # in a batch
EPOCHS = 100_000
RANK = 4_096  # of LoRA's updates
SHOTS = 4_096  # examples before a question
CONTEXT = 2**24  # tokens
MIB = 2**24  # of memory: 16 TiB
SEED = 2**32 - 1  # numpy takes no more
DOCUMENTS = 10**7  # drawn at once
PORT = 65_535
THREADS = 4 * (os.cpu_count() or 1)
