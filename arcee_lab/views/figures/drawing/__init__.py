"""What figures are drawn with: SVG that follows the page, titles, lines, maps of cells."""
