"""Templates of CPUs: convolutions, products, and everything else (`generic`).

Hands over `table.TEMPLATES`, by operator, and nothing more: only `templates.registry` imports from
here. Good configs without measuring come from the model of a core that the target has.
"""
