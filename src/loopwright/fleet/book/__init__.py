"""The LeaseBook: who may use which device, until when. A pure state machine.

Hands over: `LeaseBook.apply(event, now) -> effects`, and views of its state. It may not do I/O,
read a clock, draw a random number, or know of messages, stores and connections.
"""
