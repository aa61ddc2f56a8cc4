"""Schedules: how a workload is computed, as frozen steps checked one by one.

It hands over the steps with their text and their legality, the builder that applies them, and the
nest: the loops that the steps make, and which part of each tensor they touch with what strides, for
one candidate or for a batch of N at once. It may not know templates, configs or targets, and makes
no loops itself: `lower` does.
"""
