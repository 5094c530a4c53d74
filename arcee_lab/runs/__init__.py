"""Internal: files that are whole or absent, processes of one job, and fingerprints.

storage      atomic writes, JSON, the claim on an output folder
ranks        the processes of a job
fingerprint  what identifies a model, a tokenizer, a text
"""
