"""Internal: descriptions of neurons by a language model, and how well they predict the neuron.

_explain     the call: describe, then judge, next to the same on shuffled exemplars
generators   what a user names as the language model, as one function from prompts to texts
prompts      what it is asked
judging      detection and fuzzing: the questions, the answers, the scores
description  the result
"""
