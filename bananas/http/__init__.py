"""The HTTP face: one ASGI application, and the uvicorn that serves it.

`api.Api` is the application, `server.serve` one process's server around it. What goes in
is checked here and by `Submission`; what it means is the client's.
"""
