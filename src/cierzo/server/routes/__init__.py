"""One module per resource: endpoints that take a request and return a response."""
