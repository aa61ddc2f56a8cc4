"""Records of measurements.

Hands over `Record` with its key, stores by URL (`store`), the records that come with the package
(`shipped`), the best one for a task (`best`), and the name of a machine as a device (`device`).

It does not measure and knows no search policy. Records of earlier versions stay readable.
"""
