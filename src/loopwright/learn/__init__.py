"""Features of programs and the cost model that learns from them.

Hands over features of many configs at once (`features`), data sets of measured configs (`dataset`)
and gradient-boosted trees (`gbt`). Features come from loop nests before any code is made.

It knows schedules and templates; it does not know policies, what is measured next, or any device.
"""
