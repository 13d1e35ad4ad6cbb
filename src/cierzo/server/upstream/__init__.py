"""Models that live elsewhere: on the hosted service, or on a server of one's own."""
