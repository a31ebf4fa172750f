"""One self-contained HTML file about how things stand: gathered, drawn, rendered."""
