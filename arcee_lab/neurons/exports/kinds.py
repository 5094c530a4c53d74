"""The programs for which neurons are written; the command line offers them before torch loads."""

KINDS = ("neuronpedia", "sae_dashboard", "neuron_explainer", "delphi")
