"""Internal: what runs a classification head on texts, without lm-eval.

sequence  labels of whole texts
token     labels of words
qa        answer spans
batches   rows of token ids, in batches
answers   `al.answer`
"""
