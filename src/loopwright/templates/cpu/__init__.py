"""Templates of CPUs: convolutions, products, and everything else (`generic`).

Hands over `table.TEMPLATES`, by operator, and nothing more: only `templates.registry` imports from
here. Default configs come from the target's model of a core.
"""
