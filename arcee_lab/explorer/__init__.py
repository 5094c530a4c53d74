"""Internal: the interactive view of a model in JupyterLab; `al.explore` is the way in.

_explore      the call `explore`
widget        Explorer: its state, and how messages of the browser are answered
messages      what a message may hold, checked field by field
units         neurons and heads by name, as a selection holds them
ground        the model, its tokenizer and what was found about it
neuron_table  all neurons as columns: sorted, searched, and read a page at a time
all_tabs      the tabs, and their scripts as one module
tabs          one file per tab: what it asks, and how that is answered
static_face   what a notebook shows where the widget does not run
page          the JavaScript, one file per tab and a frame, and the CSS
"""
