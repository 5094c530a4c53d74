"""Arrays in, pictures out: HTML for notebooks and reports, matplotlib figures for papers.

Views know nothing of models. Every text they are given is escaped. The HTML uses inline styles
and `title` tooltips only, so it survives notebooks that are not trusted and pages that strip CSS;
a cell shows its number or its token, never colour alone.

    html       token strip, heat table, bar list, key-value table
    page       one self-contained HTML page
    scale      the colours
    figure     the matplotlib style
    layers     bars and ridges, one per layer
    curves     curves with intervals; a grid of cells
    bands      measured points with intervals, on log axes too
    nested     bars inside bars, one per layer
    together   pairs of units, and what a few groups of them hold
    quality    scores against sparsity, one panel a task
    raster     units against tokens
    patterns   attention, one square a head
    heads      a number a head, layer by head
    effects    a signed number for all that was patched
    scatter    two numbers a thing, and where they agree
"""
