"""Runs classification heads on texts, without lm-eval (internal, except `al.answer`).

sequence  log-probabilities of the labels of whole texts
token     labels of words
qa        answer spans of many questions
answers   `al.answer`: answer spans of one question
batches   rows of token ids as padded batches, and checks of a head's labels
targets   which logit `target=` means, and its direction
"""
