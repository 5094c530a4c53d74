"""Internal: neurons for other programs.

_export           the call
kinds             the names of the formats
records           what all formats need of a page, and random windows
neuronpedia       Neuronpedia's activation records, one JSON line per exemplar
sae_dashboard     the batch that SAEDashboard reads
neuron_explainer  the records of OpenAI's neuron-explainer, one file per neuron
delphi            a store of the run's windows, and delphi's cache from the store's own exporter
"""
