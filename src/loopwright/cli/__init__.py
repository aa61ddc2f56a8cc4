"""The command `loopwright`: one module for each command, and `main`, which has the table of them.

A command reads its options, calls what `api`, `deploy`, `export`, `report` and `fleet` offer, and
writes text or JSON; it computes nothing itself. `common` holds the options and formats that
commands share, `comparison` and `tuned` the tables of results, and `fleet/` the commands about a
fleet.

Modules import what is heavy inside the functions that need it: `loopwright --help` and the
commands about a fleet start without NumPy, LLVM or a database. Nothing else imports this package.
"""
