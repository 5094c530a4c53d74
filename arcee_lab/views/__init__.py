"""Arrays in, pictures out: HTML for notebooks and reports, matplotlib figures for papers.

Views know nothing of models. Every text they are given is escaped. The HTML uses inline styles
and `title` tooltips only, so it survives notebooks that are not trusted and pages that strip CSS;
a cell shows its number or its token, never colour alone.

    html                     token strip, heat table, bar list, key-value table
    html_page                one self-contained HTML page
    scale                    the colours
    figures/figure           the matplotlib style
    figures/layers           bars and ridges, one per layer
    figures/curves           curves with intervals; a grid of cells
    figures/bands            measured points with intervals, on log axes too
    figures/coactivation     pairs of units, and what a few groups of them hold
    figures/quality          scores against sparsity, one panel per task
    figures/raster           units against tokens
    figures/patterns         attention, one square per head
    figures/attention_heads  one number per head, layer by head
    figures/effects          a signed number for all that was patched
    figures/scatter          two numbers per group, and where they agree
"""
