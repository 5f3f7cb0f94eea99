"""Pages for people: one self-contained HTML file about a run, readable by anyone, anywhere, without a network."""
