"""The worker of one process: fetch, run, settle. User code lives only here."""
