"""Flow records to a NetObserv collector over gRPC."""
