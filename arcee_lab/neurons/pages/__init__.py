"""Internal: what is known of one neuron, as one result and as pages that open offline.

_page        the call that joins exemplars, rates, effects, labels, ablation and description
neuron_page  the result: frame, figure, view in a notebook
excerpts     an exemplar with the tokens around it
token_text   token ids as text
values       values per token, of many neurons in one pass over their windows
stored       these values on disk
html         a page in at most 60 KB of HTML
static       pages as files
index        one table of all neurons of a layer, as a page and as data
"""
