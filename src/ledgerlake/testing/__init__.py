"""For the tests of those who build on LedgerLake: scenarios of any aggregate, and a store in memory.

Nothing here needs a test framework, or a server.
"""
