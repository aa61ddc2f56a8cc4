"""A fleet: a tracker that lends devices, agents that serve them, clients that tune on them.

Hands over: leases on devices and sessions on those (`client.api`, which is `lw.fleet`), runners for
the tuner (`client.runner`, `local`), servers (`tracker.serve`, `agent.main`). It may not know the
languages of programs: what it carries are artifacts and calls.

One request has these names, on its way from the client to the book and back:

    LeaseRequest       what is asked, one value all the way (`request`)
    Acquire            the message that carries it, under an id (`wire.messages`)
    Requested          the event that tells the book of it (`book.events`)
    RequestRecord      what the book remembers of it (`book.records`)
    LeaseRecord        one device that it got, as the book remembers it
    GrantedLease       the same, as the book tells the tracker (`book.effects.TellGranted`)
    Grant              the same in a message, with a ticket (`wire.messages.Granted`)
    HeldLease          the same at the client, renewed (`client.lease`)
    Lease              all that a request got, for programs (`client.api`)

What others see of devices, leases and requests is in `views`, the words for their states in
`words`.
"""
