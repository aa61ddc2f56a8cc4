"""What a program looks like to a cost model, and the model.

Hands over features of many configs at once (`features`), data sets of measured configs (`dataset`)
and gradient-boosted trees (`gbt`). Features come from loop nests before any code is made.

It knows schedules and templates; it does not know who asks, what is measured next, or any device.
"""
