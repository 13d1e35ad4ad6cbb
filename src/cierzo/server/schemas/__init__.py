"""What travels on the wire, one module per resource, each with the stem of its route."""
